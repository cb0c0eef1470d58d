// Element types of the tile: what a 32-bit unit of A and B holds, and how units multiply.
//
// - Vec, per: the vector type for everything else; values in a unit
// - acc, b32, a32: registers of accumulators, of B, and of A (a_steps units of a row, or a broadcast where that is 1)
// - mac<s>(c, a, b): c + a[s] . b per lane
// - encode_vector(p, x): stores Vec::lanes floats as A's values, `value_bytes` each; encode_value(p, x): one
// - int8 only: is_unsigned, and first_acc(offset, zero): what sums begin with (core/packed.h, RowQuantization)
//
// F32 and its kin with per = 1 serve every tier; those with instructions of their own are in simd/.
#pragma once
#include <cstdint>
#include <cstring>

#include "simd/unroll.h"

namespace sbk {
namespace {

template <class V>
struct F32 {
  using Vec = V;
  using acc = typename V::f32;
  using b32 = typename V::f32;
  using a32 = typename V::a32;
  static constexpr int per = 1, a_steps = V::a_steps;

  static SBK_INLINE const float* floats(const int32_t* p) { return reinterpret_cast<const float*>(p); }
  static SBK_INLINE b32 load_b(const int32_t* p) { return V::load(floats(p)); }
  static SBK_INLINE a32 load_a(const int32_t* p) { return V::load_a(floats(p)); }
  static SBK_INLINE a32 splat_a(const int32_t* p) { return V::set1(*floats(p)); }
  template <int S>
  static SBK_INLINE acc mac(acc c, a32 a, b32 b) {
    return V::template mac<S>(c, a, b);
  }
};

SBK_INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

// To nearest, ties to even, a NaN stays one; as the upper half of the 32 bits.
SBK_INLINE uint32_t round_to_bf16(float x) {
  const uint32_t bits = bits_of(x);
  return x == x ? (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u : bits | 0x400000u;
}

// bf16 where the tier cannot multiply it: values rounded to bf16, kept and multiplied as fp32. Same results up to the
// order of sums, the speed of fp32.
template <class V>
struct RoundedBF16 : F32<V> {
  static constexpr int value_bytes = 4;
  static constexpr bool is_unsigned = false;
  static SBK_INLINE void encode_value(void* p, float x) {
    const uint32_t bits = round_to_bf16(x);
    std::memcpy(p, &bits, sizeof bits);
  }
  static SBK_INLINE void encode_vector(void* p, typename V::f32 x) {
    float values[V::lanes];
    V::store(values, x);
    for (int i = 0; i < V::lanes; i++) encode_value(static_cast<float*>(p) + i, values[i]);
  }
};

// int8 where the tier has no product of narrow integers: 32-bit lanes.
template <class V>
struct WideInt8 {
  using Vec = V;
  using acc = typename V::i32;
  using b32 = typename V::i32;
  using a32 = typename V::i32;
  static constexpr int per = 1, a_steps = 1, value_bytes = 4;
  static constexpr bool is_unsigned = false;

  static SBK_INLINE b32 load_b(const int32_t* p) { return V::load_i32(p); }
  static SBK_INLINE a32 load_a(const int32_t* p) { return V::set1_i32(*p); }
  static SBK_INLINE acc first_acc(const int32_t* offset, int32_t) { return V::load_i32(offset); }
  static SBK_INLINE typename V::f32 to_float(acc c) { return V::to_float(c); }
  template <int S>
  static SBK_INLINE acc mac(acc c, a32 a, b32 b) {
    return V::mac_i32(c, a, b);
  }
  static SBK_INLINE void encode_value(void* p, float q) {
    const int32_t value = static_cast<int32_t>(q);
    std::memcpy(p, &value, sizeof value);
  }
  static SBK_INLINE void encode_vector(void* p, typename V::f32 q) {
    float values[V::lanes];
    V::store(values, q);
    for (int i = 0; i < V::lanes; i++) encode_value(static_cast<int32_t*>(p) + i, values[i]);
  }
};

}  // namespace
}  // namespace sbk
