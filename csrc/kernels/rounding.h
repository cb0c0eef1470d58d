// Floats rounded to bf16 and fp16: to nearest, ties to even, a NaN stays one. In an anonymous namespace because both
// ISA files and others use it.
#pragma once
#include <cstdint>
#include <cstring>

namespace sbk {
namespace {

inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float float_from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// As the upper half of the 32 bits.
inline uint32_t round_to_bf16(float x) {
  const uint32_t bits = bits_of(x);
  return x == x ? (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u : bits | 0x400000u;
}

// As a float. What fp16 cannot hold, from 65520 on, becomes infinity.
inline float round_to_fp16(float x) {
  const uint32_t bits = bits_of(x), sign = bits & 0x80000000u;
  const float size = float_from_bits(bits ^ sign);
  if (size >= 65520.0f) return float_from_bits(sign | 0x7f800000u);
  if (size >= 0x1p-14f) return float_from_bits((bits + 0xfff + ((bits >> 13) & 1)) & 0xffffe000u);
  // Denormals are multiples of 2^-24, which is an ulp of 0.5. NaN goes this way, too.
  return float_from_bits(sign | bits_of((size + 0.5f) - 0.5f));
}

// The 16 bits of fp16, rounded likewise.
inline uint16_t fp16_bits(float x) {
  const uint32_t bits = bits_of(round_to_fp16(x)), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (size == 0x7f800000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (size >= 0x38800000u) return static_cast<uint16_t>(sign | (size - 0x38000000u) >> 13);
  return static_cast<uint16_t>(sign | static_cast<uint32_t>(float_from_bits(size) * 0x1p24f));
}

inline float fp16_to_float(uint16_t h) {
  const uint32_t sign = uint32_t{h & 0x8000u} << 16, exponent = (h >> 10) & 0x1f, mantissa = h & 0x3ff;
  if (exponent == 31) return float_from_bits(sign | 0x7f800000u | mantissa << 13);
  if (exponent != 0) return float_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
  const float subnormal = static_cast<float>(mantissa) * 0x1p-24f;
  return sign ? -subnormal : subnormal;
}

}  // namespace
}  // namespace sbk
