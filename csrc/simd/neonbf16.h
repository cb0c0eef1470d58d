// FEAT_BF16: bfmmla, 16 products of bf16, summed in fp32 (denormals count as zero).
#pragma once
#include "simd/neonmatrix.h"

namespace sbk {
namespace {

struct NeonBF16 : NeonMatrix<bfloat16x8_t> {
  using Vec = Neon;
  using acc = float32x4_t;
  static constexpr int lanes = 4, chunk = 0, per = 4, value_bytes = 2;
  static constexpr int32_t least = kSymmetric;

  static SBK_INLINE acc mac(acc c, b32 a, b32 b) { return vbfmmlaq_f32(c, a, b); }
  static SBK_INLINE void encode_value(void* p, float x) {
    const bfloat16_t value = vcvth_bf16_f32(x);
    __builtin_memcpy(p, &value, sizeof value);
  }
  static SBK_INLINE void encode_vector(void* p, float32x4_t x) {
    vst1_bf16(static_cast<bfloat16_t*>(p), vcvt_bf16_f32(x));
  }
  static SBK_INLINE void encode_four(void* p, const float32x4_t (&x)[4]) {
    auto* to = static_cast<bfloat16_t*>(p);
    vst1q_bf16(to, vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(x[0]), x[1]));
    vst1q_bf16(to + 8, vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(x[2]), x[3]));
  }
};

}  // namespace
}  // namespace sbk
