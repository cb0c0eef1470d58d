// FEAT_FP16: fmla of eight halves by lane, twice the products of fp32 in the same tile. Sums are fp16, too, and grow
// inexact with their length: see chunk.
#pragma once
#include "simd/neon.h"

namespace sbk {
namespace {

struct NeonFP16 {
  using Vec = Neon;
  using unit = uint16_t;
  using acc = float16x8_t;
  using b32 = float16x8_t;
  using a32 = NeonA<float16x8_t>;
  static constexpr int lanes = 8, per = 1, a_steps = 16, value_bytes = 2;
  static constexpr int32_t least = kSymmetric;
  // Each sum is rounded to 11 bits: after n of them the error of a sum s is up to n 2^-11 |s|, and about
  // sqrt(n / 2) 2^-12 |s| where signs are mixed, which is 0.24 % for 192. 96 would have 0.7 of the error for 4 % more
  // instructions.
  static constexpr int chunk = 192;

  template <int NV>
  static SBK_INLINE void load_row(b32 (&b)[NV], const unit* p) {
    load_neon_row(b, p);
  }
  static SBK_INLINE a32 next_a(const unit*& p) { return next_neon_a<float16x8_t>(p); }
  static SBK_INLINE a32 splat_a(const unit* p) {
    const b32 splat = vld1q_dup_f16(reinterpret_cast<const float16_t*>(p));
    return {splat, splat};
  }
  template <int S>
  static SBK_INLINE acc mac(acc c, a32 a, b32 b) {
#if defined(__clang__)
    return vfmaq_laneq_f16(c, b, S < 8 ? a.low : a.high, S % 8);
#else
    // GCC 12 knows fmla by lane of floats only, and would fill a register with every lane first.
    asm("fmla %0.8h, %1.8h, %2.h[%3]" : "+w"(c) : "w"(b), "x"(S < 8 ? a.low : a.high), "i"(S % 8));
    return c;
#endif
  }
  template <int H>
  static SBK_INLINE float32x4_t widened(acc c) {
    return H == 0 ? vcvt_f32_f16(vget_low_f16(c)) : vcvt_high_f32_f16(c);
  }
  static SBK_INLINE void encode_value(void* p, float x) {
    const float16_t half = static_cast<float16_t>(x);
    __builtin_memcpy(p, &half, sizeof half);
  }
  static SBK_INLINE void encode_vector(void* p, float32x4_t x) {
    vst1_f16(static_cast<float16_t*>(p), vcvt_f16_f32(x));
  }
  static SBK_INLINE void encode_four(void* p, const float32x4_t (&x)[4]) {
    auto* to = static_cast<float16_t*>(p);
    vst1q_f16(to, vcvt_high_f16_f32(vcvt_f16_f32(x[0]), x[1]));
    vst1q_f16(to + 8, vcvt_high_f16_f32(vcvt_f16_f32(x[2]), x[3]));
  }
};

}  // namespace
}  // namespace sbk
