// Numbers as weights and files have them: float16, bfloat16, and int8 with a scale.
#pragma once
#include <cstdint>
#include <cstring>

#include "kernels/rounding.h"

namespace sbk {

enum class WeightType : uint16_t { float32, float16, bfloat16 };

constexpr uint64_t value_size(WeightType type) { return type == WeightType::float32 ? 4 : 2; }

namespace {

// Value `i` of `type` at `data`.
inline float value_at(const void* data, WeightType type, int64_t i) {
  const auto* p = static_cast<const char*>(data) + static_cast<uint64_t>(i) * value_size(type);
  if (type == WeightType::float32) {
    float value;
    std::memcpy(&value, p, sizeof value);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, p, sizeof bits);
  return type == WeightType::float16 ? fp16_to_float(bits) : float_from_bits(uint32_t{bits} << 16);
}

}  // namespace

// `n` values of `type` at `data`. No alignment is needed, here as above. Narrowing rounds as kernels/rounding.h does.
void to_floats(const void* data, WeightType type, int64_t n, float* out);
void from_floats(const float* data, int64_t n, WeightType type, void* out);

// The scale of int8 values whose largest magnitude is `max`: max / 127 rounded up to 16 significant bits, so that its
// products with them are exact; 0 where its inverse would not be finite.
float int8_scale(float max);
// round(x / scale) into q; returns the scale, NaN where x has a NaN or an infinity (q is 0 then).
float quantize_row(const float* x, int64_t n, int8_t* q);

}  // namespace sbk
