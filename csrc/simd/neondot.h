// FEAT_DotProd: sdot by lane, four products of int8 a lane. Both sides are signed, so what is stored of x reaches from
// -127 to 127 around a zero per row; sums begin with that zero times what packing has left for it, minus the sum of
// each column's weights.
#pragma once
#include "simd/neon.h"

namespace sbk {
namespace {

struct NeonDot : Units32<Neon> {
  using acc = int32x4_t;
  using b32 = int8x16_t;
  using a32 = NeonA<int8x16_t>;
  static constexpr int per = 4, a_steps = 8, value_bytes = 1;
  static constexpr int32_t least = -127;

  template <int NV>
  static SBK_INLINE void load_row(b32 (&b)[NV], const int32_t* p) {
    load_neon_row(b, p);
  }
  static SBK_INLINE a32 next_a(const int32_t*& p) { return next_neon_a<int8x16_t>(p); }
  static SBK_INLINE a32 splat_a(const int32_t* p) {
    const b32 splat = vreinterpretq_s8_s32(vld1q_dup_s32(p));
    return {splat, splat};
  }
  static SBK_INLINE acc first_acc(const int32_t* offset, int32_t zero) { return vmulq_n_s32(vld1q_s32(offset), zero); }
  template <int S>
  static SBK_INLINE acc mac(acc c, a32 a, b32 b) {
    return vdotq_laneq_s32(c, b, S < 4 ? a.low : a.high, S % 4);
  }
  static SBK_INLINE float32x4_t to_float(acc c) { return vcvtq_f32_s32(c); }
  static SBK_INLINE void encode_value(void* p, float q) { *static_cast<int8_t*>(p) = static_cast<int8_t>(q); }
  static SBK_INLINE void encode_vector(void* p, float32x4_t q) {
    const int16x4_t narrow = vmovn_s32(vcvtq_s32_f32(q));
    const int32x2_t bytes = vreinterpret_s32_s8(vmovn_s16(vcombine_s16(narrow, narrow)));
    const int32_t low = vget_lane_s32(bytes, 0);
    __builtin_memcpy(p, &low, sizeof low);
  }
};

}  // namespace
}  // namespace sbk
