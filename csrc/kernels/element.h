// Element types of the tile: what a unit of A and B holds, and how units multiply.
//
// - Vec, unit, per: the vector type for everything else; an integer of a unit's size; values in a unit
// - acc, b32, a32: registers of accumulators, of B, and of A (a_steps units of a row, or a broadcast where that is 1)
// - load_a(p), where a_steps is 1: one of A. Elsewhere next_a(p), which moves p on by a_steps, and splat_a(p) for the
//   rest
// - lanes: columns in a register of accumulators
// - load_b(p): one register of B. load_row(b, p), optional: all of a row of the tile at once
// - mac<s>(c, a, b): c + a[s] . b per lane
// - where small matrices are multiplied (pair_tile.h), in place of all these functions: next_a, two_rows, load_row,
//   join and mac(c, a, b)
// - encode_vector(p, x): stores Vec::lanes floats as A's values, `value_bytes` each; encode_value(p, x): one;
// encode_four(p, x[4]), optional: four vectors at once. int8: encode_vector(p, x, zero) and encode_four likewise, which
// round x to nearest even and add zero; encode_value(p, q) of an integer
// - store_stacked(p, x[per]), optional: stores a vector of units (x[0], ..., x[per - 1]), for attention
// - int8 only: least (layout.h), and first_acc(offset, zero): what sums begin with (ops/packed.h, RowQuantization)
// - chunk: 0, or after how many units sums are widened: then widened<h>(acc) are the floats of Vec h of a register
//
// F32 and its kin with per = 1 serve every tier; those with instructions of their own are in simd/.
#pragma once
#include <cstdint>
#include <cstring>

#include "kernels/rounding.h"
#include "kernels/units.h"
#include "kernels/unroll.h"

namespace sbk {
namespace {

template <class V>
struct F32 : Units32<V> {
  using acc = typename V::f32;
  using b32 = typename V::f32;
  using a32 = typename V::a32;
  static constexpr int per = 1, a_steps = V::a_steps;

  static SBK_INLINE const float* floats(const int32_t* p) { return reinterpret_cast<const float*>(p); }
  static SBK_INLINE b32 load_b(const int32_t* p) { return V::load(floats(p)); }
  template <int NV>
  static SBK_INLINE void load_row(b32 (&b)[NV], const int32_t* p)
    requires requires { V::load_row(b, floats(p)); }
  {
    V::load_row(b, floats(p));
  }
  static SBK_INLINE a32 load_a(const int32_t* p) { return V::load_a(floats(p)); }
  static SBK_INLINE a32 next_a(const int32_t*& p) { return V::next_a(p); }
  static SBK_INLINE a32 splat_a(const int32_t* p) { return V::splat_a(floats(p)); }
  template <int S>
  static SBK_INLINE acc mac(acc c, a32 a, b32 b) {
    return V::template mac<S>(c, a, b);
  }
};

// bf16 and fp16 where the tier cannot multiply them: values rounded, kept and multiplied as fp32. Same results up to
// the rounding of sums, the speed of fp32.
template <class V, class Round>
struct Rounded : F32<V> {
  static constexpr int value_bytes = 4;
  static SBK_INLINE void encode_value(void* p, float x) {
    const float rounded = Round{}(x);
    std::memcpy(p, &rounded, sizeof rounded);
  }
  static SBK_INLINE void encode_vector(void* p, typename V::f32 x) {
    float values[V::lanes];
    V::store(values, x);
    for (int i = 0; i < V::lanes; i++) encode_value(static_cast<float*>(p) + i, values[i]);
  }
};

struct ToBF16 {
  SBK_INLINE float operator()(float x) const { return float_from_bits(round_to_bf16(x)); }
};
struct ToFP16 {
  SBK_INLINE float operator()(float x) const { return round_to_fp16(x); }
};

template <class V>
using RoundedBF16 = Rounded<V, ToBF16>;
template <class V>
using RoundedFP16 = Rounded<V, ToFP16>;

// int8 where the tier has no product of narrow integers: 32-bit lanes.
template <class V>
struct WideInt8 : Units32<V> {
  using acc = typename V::i32;
  using b32 = typename V::i32;
  using a32 = typename V::i32;
  static constexpr int per = 1, a_steps = 1, value_bytes = 4;

  static SBK_INLINE b32 load_b(const int32_t* p) { return V::load_i32(p); }
  static SBK_INLINE a32 load_a(const int32_t* p) { return V::set1_i32(*p); }
  static SBK_INLINE acc first_acc(const int32_t* offset, int32_t) { return V::load_i32(offset); }
  static SBK_INLINE typename V::f32 to_float(acc c) { return V::to_float(c); }
  template <int S>
  static SBK_INLINE acc mac(acc c, a32 a, b32 b) {
    return V::mac_i32(c, a, b);
  }
  static SBK_INLINE void encode_value(void* p, int32_t q) { std::memcpy(p, &q, sizeof q); }
  static SBK_INLINE void encode_vector(void* p, typename V::f32 x, int32_t zero) {
    float values[V::lanes];
    V::store(values, V::round(x));
    for (int i = 0; i < V::lanes; i++) {
      encode_value(static_cast<int32_t*>(p) + i, static_cast<int32_t>(values[i]) + zero);
    }
  }
};

}  // namespace
}  // namespace sbk
