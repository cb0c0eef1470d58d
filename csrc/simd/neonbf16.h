// FEAT_BF16: bfdot by lane, two products of bf16 a lane, summed in fp32 (denormals count as zero).
#pragma once
#include "simd/neon.h"

namespace sbk {
namespace {

struct NeonBF16 : Units32<Neon> {
  using acc = float32x4_t;
  using b32 = bfloat16x8_t;
  using a32 = NeonA<bfloat16x8_t>;
  static constexpr int per = 2, a_steps = 8, value_bytes = 2;

  template <int NV>
  static SBK_INLINE void load_row(b32 (&b)[NV], const int32_t* p) {
    load_neon_row(b, p);
  }
  static SBK_INLINE a32 next_a(const int32_t*& p) { return next_neon_a<bfloat16x8_t>(p); }
  static SBK_INLINE a32 splat_a(const int32_t* p) {
    const bfloat16x8_t splat = vreinterpretq_bf16_s32(vld1q_dup_s32(p));
    return {splat, splat};
  }
  template <int S>
  static SBK_INLINE acc mac(acc c, a32 a, b32 b) {
    // Written out: clang makes a register of copies of the lane first, and runs out of registers.
    asm("bfdot %0.4s, %1.8h, %2.2h[%3]" : "+w"(c) : "w"(b), "w"(S < 4 ? a.low : a.high), "i"(S % 4));
    return c;
  }
  static SBK_INLINE void encode_value(void* p, float x) {
    const bfloat16_t value = vcvth_bf16_f32(x);
    __builtin_memcpy(p, &value, sizeof value);
  }
  static SBK_INLINE void encode_vector(void* p, float32x4_t x) {
    vst1_bf16(static_cast<bfloat16_t*>(p), vcvt_bf16_f32(x));
  }
};

}  // namespace
}  // namespace sbk
