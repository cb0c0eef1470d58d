#include "ops/values.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace sbk {

void to_floats(const void* data, WeightType type, int64_t n, float* out) {
  if (type == WeightType::float32) {
    std::memcpy(out, data, static_cast<std::size_t>(n) * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < n; i++) out[i] = value_at(data, type, i);
}

void from_floats(const float* data, int64_t n, WeightType type, void* out) {
  if (type == WeightType::float32) {
    std::memcpy(out, data, static_cast<std::size_t>(n) * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < n; i++) {
    const uint16_t value =
        type == WeightType::float16 ? fp16_bits(data[i]) : static_cast<uint16_t>(round_to_bf16(data[i]) >> 16);
    std::memcpy(static_cast<char*>(out) + i * 2, &value, sizeof value);
  }
}

float int8_scale(float max) {
  const float exact = max / 127.0f;
  const float scale = std::isfinite(exact) ? float_from_bits((bits_of(exact) + 0xff) & ~0xffu) : exact;
  return std::isfinite(1.0f / scale) ? scale : 0.0f;
}

float quantize_row(const float* x, int64_t n, int8_t* q) {
  float max = 0.0f, poison = 0.0f;
  for (int64_t i = 0; i < n; i++) max = std::max(max, std::fabs(x[i])), poison += x[i] * 0.0f;
  const float scale = int8_scale(max) + poison;
  const float inverse = scale > 0 && std::isfinite(scale) ? 1.0f / scale : 0.0f;
  for (int64_t i = 0; i < n; i++)
    q[i] = inverse == 0.0f ? int8_t{0} : static_cast<int8_t>(std::nearbyint(x[i] * inverse));
  return scale;
}

}  // namespace sbk
