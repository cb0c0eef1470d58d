#include "core/values.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace sbk {
namespace {

float float_from_bits(uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, sizeof f);
  return f;
}

uint32_t bits_of_float(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

}  // namespace

float half_to_float(uint16_t h) {
  const uint32_t sign = uint32_t{h & 0x8000u} << 16, exponent = (h >> 10) & 0x1f, mantissa = h & 0x3ff;
  if (exponent == 31) return float_from_bits(sign | 0x7f800000u | mantissa << 13);
  if (exponent != 0) return float_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
  const float subnormal = static_cast<float>(mantissa) * 0x1p-24f;
  return sign ? -subnormal : subnormal;
}

float bfloat16_to_float(uint16_t b) { return float_from_bits(uint32_t{b} << 16); }

uint16_t float_to_half(float x) {
  const uint32_t bits = bits_of_float(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and above
  if (magnitude < 0x38800000u) {  // subnormal: float addition rounds at the last bit of a half
    const float shifted = float_from_bits(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (bits_of_float(shifted) - bits_of_float(0.5f)));
  }
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1);
  return static_cast<uint16_t>(sign | (rounded - 0x38000000u) >> 13);
}

uint16_t float_to_bfloat16(float x) {
  const uint32_t bits = bits_of_float(x);
  if (x != x) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void to_floats(const void* data, WeightType type, int64_t n, float* out) {
  if (type == WeightType::float32) {
    std::memcpy(out, data, static_cast<std::size_t>(n) * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < n; i++) {
    uint16_t value;
    std::memcpy(&value, static_cast<const char*>(data) + i * 2, sizeof value);
    out[i] = type == WeightType::float16 ? half_to_float(value) : bfloat16_to_float(value);
  }
}

void from_floats(const float* data, int64_t n, WeightType type, void* out) {
  if (type == WeightType::float32) {
    std::memcpy(out, data, static_cast<std::size_t>(n) * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < n; i++) {
    const uint16_t value = type == WeightType::float16 ? float_to_half(data[i]) : float_to_bfloat16(data[i]);
    std::memcpy(static_cast<char*>(out) + i * 2, &value, sizeof value);
  }
}

float int8_scale(float max) {
  const float exact = max / 127.0f;
  const float scale = std::isfinite(exact) ? float_from_bits((bits_of_float(exact) + 0xff) & ~0xffu) : exact;
  return std::isfinite(1.0f / scale) ? scale : 0.0f;
}

float quantize_row(const float* x, int64_t n, int8_t* q) {
  float max = 0.0f, poison = 0.0f;
  for (int64_t i = 0; i < n; i++) max = std::max(max, std::fabs(x[i])), poison += x[i] * 0.0f;
  const float scale = int8_scale(max) + poison;
  const float inverse = scale > 0 && std::isfinite(scale) ? 1.0f / scale : 0.0f;
  for (int64_t i = 0; i < n; i++) q[i] = inverse == 0.0f ? int8_t{0} : static_cast<int8_t>(std::nearbyint(x[i] * inverse));
  return scale;
}

}  // namespace sbk
