// AArch64 Advanced SIMD, armv8.0: 4 lanes, a tile of 8 x 2 vectors. A is read four neighbours along K at a time and
// used by lane (fmla v, v, v.s[i]): a row costs one load for four steps of K, and no splat occupies a register.
#pragma once
#include <arm_neon.h>

#include <cstdint>

#include "simd/unroll.h"

namespace sbk {
namespace {

struct Neon {
  static constexpr int lanes = 4, tile_rows = 8, tile_vectors = 2, a_steps = 4;
  using f32 = float32x4_t;
  using a32 = float32x4_t;

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
  static SBK_INLINE f32 pow2(f32 n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23));
  }
  static SBK_INLINE a32 load_a(const float* p) { return vld1q_f32(p); }
  template <int S>
  static SBK_INLINE f32 mac(f32 c, a32 a, f32 b) {
    return vfmaq_laneq_f32(c, b, a, S);
  }
  using i32 = int32x4_t;
  static SBK_INLINE i32 load_i32(const int32_t* p) { return vld1q_s32(p); }
  static SBK_INLINE i32 set1_i32(int32_t x) { return vdupq_n_s32(x); }
  static SBK_INLINE i32 mac_i32(i32 c, i32 a, i32 b) { return vmlaq_s32(c, a, b); }
  static SBK_INLINE f32 to_float(i32 v) { return vcvtq_f32_s32(v); }
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
