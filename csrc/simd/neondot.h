// FEAT_DotProd: sdot by lane, four products of int8 a lane. Both sides are signed, so what is stored of x reaches from
// -127 to 127 around a zero per row; sums begin with that zero times what packing has left for it, minus the sum of
// each column's weights.
#pragma once
#include "simd/neon.h"

namespace sbk {
namespace {

// How integers are stored and read: smmla's (neoni8mm.h), too.
struct NeonInt8 {
  using Vec = Neon;
  using acc = int32x4_t;
  static constexpr int lanes = 4, chunk = 0, value_bytes = 1;
  static constexpr int32_t least = -127;

  static SBK_INLINE acc first_acc(const int32_t* offset, int32_t zero) { return vmulq_n_s32(vld1q_s32(offset), zero); }
  static SBK_INLINE float32x4_t to_float(acc c) { return vcvtq_f32_s32(c); }
  static SBK_INLINE void encode_value(void* p, int32_t q) { *static_cast<int8_t*>(p) = static_cast<int8_t>(q); }
  static SBK_INLINE void encode_vector(void* p, float32x4_t x, int32_t zero) {
    const int8x16_t bytes = rounded_bytes(x, x, x, x, zero);
    const int32_t low = vgetq_lane_s32(vreinterpretq_s32_s8(bytes), 0);
    __builtin_memcpy(p, &low, sizeof low);
  }
  static SBK_INLINE void encode_four(void* p, const float32x4_t (&x)[4], int32_t zero) {
    vst1q_s8(static_cast<int8_t*>(p), rounded_bytes(x[0], x[1], x[2], x[3], zero));
  }

 private:
  // An x and zero each may need nine bits, but their sum does not: it is right modulo 256.
  static SBK_INLINE int8x16_t rounded_bytes(float32x4_t a, float32x4_t b, float32x4_t c, float32x4_t d, int32_t zero) {
    const auto halves = [](float32x4_t low, float32x4_t high) SBK_INLINE_LAMBDA {
      const auto rounded = [](float32x4_t x) SBK_INLINE_LAMBDA { return vreinterpretq_s16_s32(vcvtnq_s32_f32(x)); };
      return vreinterpretq_s8_s16(vuzp1q_s16(rounded(low), rounded(high)));
    };
    return vaddq_s8(vuzp1q_s8(halves(a, b), halves(c, d)), vdupq_n_s8(static_cast<int8_t>(zero)));
  }
};

struct NeonDot : NeonInt8 {
  using unit = int32_t;
  using b32 = int8x16_t;
  using a32 = NeonA<int8x16_t>;
  static constexpr int per = 4, a_steps = 8;

  template <int NV>
  static SBK_INLINE void load_row(b32 (&b)[NV], const int32_t* p) {
    load_neon_row(b, p);
  }
  static SBK_INLINE a32 next_a(const int32_t*& p) { return next_neon_a<int8x16_t>(p); }
  static SBK_INLINE a32 splat_a(const int32_t* p) {
    const b32 splat = vreinterpretq_s8_s32(vld1q_dup_s32(p));
    return {splat, splat};
  }
  template <int S>
  static SBK_INLINE acc mac(acc c, a32 a, b32 b) {
    return vdotq_laneq_s32(c, b, S < 4 ? a.low : a.high, S % 4);
  }
};

}  // namespace
}  // namespace sbk
