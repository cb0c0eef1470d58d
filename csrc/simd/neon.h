// AArch64 Advanced SIMD, armv8.0: 4 lanes, a tile of 4 x 4 vectors (16 accumulators, 8 registers of A, up to 8 of B). A
// is read eight neighbours along K at a time and used by lane (fmla v, v, v.s[i]): a row costs one ldp for eight steps
// of K, B one ld1 of four registers for every step, and no splat occupies a register. 8 x 2 needs twice as many loads
// of A for the same products; 6 x 4 and 4 x 6 leave no room for A in more than one register a row.
//
// No prefetching: a core that is worth it does it on its own, and an instruction in every step is 6 % of them.
#pragma once
#include <arm_neon.h>

#include <cstdint>

#include "kernels/units.h"
#include "kernels/unroll.h"

namespace sbk {
namespace {

// 32 bytes of a row of A.
template <class T>
struct NeonA {
  T low, high;
};

// 32 bytes of a row of A, and p moves on behind them. Written out because compilers share one index between the rows,
// and then need an addition for each: ldp has no address of two registers.
template <class T, class U>
SBK_INLINE NeonA<T> next_neon_a(const U*& p) {
  float32x4_t low, high;
  asm("ldp %q0, %q1, [%2], #32" : "=w"(low), "=w"(high), "+r"(p) : "m"(*reinterpret_cast<const char (*)[32]>(p)));
  return {reinterpret_cast<T>(low), reinterpret_cast<T>(high)};
}

// NV registers of B that lie side by side, by one instruction.
template <class T, int NV, class U>
SBK_INLINE void load_neon_row(T (&b)[NV], const U* from) {
  const float* p = reinterpret_cast<const float*>(from);
  const auto take = [&](const auto& v) SBK_INLINE_LAMBDA {
    unroll<NV>([&](auto j) SBK_INLINE_LAMBDA { b[j] = reinterpret_cast<T>(v.val[j]); });
  };
  if constexpr (NV == 4) {
    take(vld1q_f32_x4(p));
  } else if constexpr (NV == 3) {
    take(vld1q_f32_x3(p));
  } else if constexpr (NV == 2) {
    take(vld1q_f32_x2(p));
  } else {
    b[0] = reinterpret_cast<T>(vld1q_f32(p));
  }
}

struct Neon {
  static constexpr int lanes = 4, tile_rows = 4, tile_vectors = 4, a_steps = 8;
  static constexpr int batch = 2;  // four need more registers than there are
  static constexpr bool prefetches = false, fma_overwrites_addend = true;
  using f32 = float32x4_t;
  using a32 = NeonA<float32x4_t>;

  static SBK_INLINE f32 zero() { return vdupq_n_f32(0.0f); }
  static SBK_INLINE f32 set1(float x) { return vdupq_n_f32(x); }
  static SBK_INLINE f32 load(const float* p) { return vld1q_f32(p); }
  static SBK_INLINE f32 load_partial(const float* p, int64_t n) {
    f32 v = zero();
    if (n > 0) v = vld1q_lane_f32(p, v, 0);
    if (n > 1) v = vld1q_lane_f32(p + 1, v, 1);
    if (n > 2) v = vld1q_lane_f32(p + 2, v, 2);
    return v;
  }
  static SBK_INLINE void store(float* p, f32 v) { vst1q_f32(p, v); }
  static SBK_INLINE void store_partial(float* p, f32 v, int64_t n) {
    if (n > 0) vst1q_lane_f32(p, v, 0);
    if (n > 1) vst1q_lane_f32(p + 1, v, 1);
    if (n > 2) vst1q_lane_f32(p + 2, v, 2);
  }
  static SBK_INLINE f32 add(f32 a, f32 b) { return vaddq_f32(a, b); }
  static SBK_INLINE f32 sub(f32 a, f32 b) { return vsubq_f32(a, b); }
  static SBK_INLINE f32 mul(f32 a, f32 b) { return vmulq_f32(a, b); }
  static SBK_INLINE f32 div(f32 a, f32 b) { return vdivq_f32(a, b); }
  static SBK_INLINE f32 fma(f32 a, f32 b, f32 c) { return vfmaq_f32(c, a, b); }
  static SBK_INLINE f32 min(f32 a, f32 b) { return vminq_f32(a, b); }
  static SBK_INLINE f32 max(f32 a, f32 b) { return vmaxq_f32(a, b); }
  static SBK_INLINE f32 zero_if_less(f32 r, f32 x, f32 y) {
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(r), vcltq_f32(x, y)));
  }
  static SBK_INLINE f32 round(f32 x) { return vrndnq_f32(x); }
  static SBK_INLINE f32 low_bits_as_exponent(f32 x) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vreinterpretq_s32_f32(x), 23));
  }
  template <class U>
  static SBK_INLINE a32 next_a(const U*& p) {
    return next_neon_a<f32>(p);
  }
  static SBK_INLINE a32 splat_a(const float* p) { return {vld1q_dup_f32(p), zero()}; }
  template <int NV>
  static SBK_INLINE void load_row(f32 (&b)[NV], const float* p) {
    load_neon_row(b, p);
  }
  template <int S>
  static SBK_INLINE f32 mac(f32 c, a32 a, f32 b) {
    return vfmaq_laneq_f32(c, b, S < 4 ? a.low : a.high, S % 4);
  }
  using i32 = int32x4_t;
  static SBK_INLINE i32 load_i32(const int32_t* p) { return vld1q_s32(p); }
  static SBK_INLINE i32 set1_i32(int32_t x) { return vdupq_n_s32(x); }
  static SBK_INLINE i32 mac_i32(i32 c, i32 a, i32 b) { return vmlaq_s32(c, a, b); }
  static SBK_INLINE f32 to_float(i32 v) { return vcvtq_f32_s32(v); }
  using u32 = uint32x4_t;
  static SBK_INLINE u32 set1_u32(uint32_t x) { return vdupq_n_u32(x); }
  static SBK_INLINE u32 count_from(uint32_t first) {
    static constexpr uint32_t counts[] = {0, 1, 2, 3};
    return vaddq_u32(vdupq_n_u32(first), vld1q_u32(counts));
  }
  static SBK_INLINE u32 bit_xor(u32 a, u32 b) { return veorq_u32(a, b); }
  static SBK_INLINE void mul_wide(u32 a, u32 b, u32& low, u32& high) {
    const uint32x4_t first = vreinterpretq_u32_u64(vmull_u32(vget_low_u32(a), vget_low_u32(b)));
    const uint32x4_t second = vreinterpretq_u32_u64(vmull_high_u32(a, b));
    low = vuzp1q_u32(first, second), high = vuzp2q_u32(first, second);
  }
  static SBK_INLINE f32 zero_if_less_u32(f32 r, u32 x, u32 y) {
    return vreinterpretq_f32_u32(vandq_u32(vcgeq_u32(x, y), vreinterpretq_u32_f32(r)));
  }
  static SBK_INLINE void transpose(f32 (&r)[4]) {
    const f32 a = vtrn1q_f32(r[0], r[1]), b = vtrn2q_f32(r[0], r[1]);
    const f32 c = vtrn1q_f32(r[2], r[3]), d = vtrn2q_f32(r[2], r[3]);
    const auto f64 = [](f32 v) SBK_INLINE_LAMBDA { return vreinterpretq_f64_f32(v); };
    r[0] = vreinterpretq_f32_f64(vtrn1q_f64(f64(a), f64(c)));
    r[1] = vreinterpretq_f32_f64(vtrn1q_f64(f64(b), f64(d)));
    r[2] = vreinterpretq_f32_f64(vtrn2q_f64(f64(a), f64(c)));
    r[3] = vreinterpretq_f32_f64(vtrn2q_f64(f64(b), f64(d)));
  }
  static SBK_INLINE float reduce_add(f32 v) { return vaddvq_f32(v); }
  static SBK_INLINE float reduce_max(f32 v) { return vmaxvq_f32(v); }
};

}  // namespace
}  // namespace sbk
