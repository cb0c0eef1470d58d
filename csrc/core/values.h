// Numbers as weights and files have them: float16, bfloat16, and int8 with a scale.
#pragma once
#include <cstdint>

namespace sbk {

enum class WeightType : uint16_t { float32, float16, bfloat16 };

constexpr uint64_t value_size(WeightType type) { return type == WeightType::float32 ? 4 : 2; }

float half_to_float(uint16_t h);
float bfloat16_to_float(uint16_t b);
// To nearest, ties to even; beyond the range infinity; a NaN stays one.
uint16_t float_to_half(float x);
uint16_t float_to_bfloat16(float x);

// `n` values of `type` at `data`, of any alignment.
void to_floats(const void* data, WeightType type, int64_t n, float* out);
void from_floats(const float* data, int64_t n, WeightType type, void* out);

// The scale of int8 values whose largest magnitude is `max`: max / 127 rounded up to 16 significant bits, so that its
// products with them are exact; 0 where its inverse would not be finite.
float int8_scale(float max);
// round(x / scale) into q; returns the scale, NaN where x has a NaN or an infinity (q is 0 then).
float quantize_row(const float* x, int64_t n, int8_t* q);

}  // namespace sbk
