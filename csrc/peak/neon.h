// The multiply-adds of the AArch64 tiers. Each tier's file uses those that it has.
#pragma once
#include <arm_neon.h>

#include "peak/peak.h"

namespace {

struct Float {
  using acc = float32x4_t;
  using operand = float32x4_t;
  static constexpr int per = 1, lanes = 4, chains = 24;
  static acc start(int i) { return vdupq_n_f32(static_cast<float>(1 + i)); }
  static operand one() { return vdupq_n_f32(1.0f); }
  static SBK_INLINE acc mac(acc c, operand a, operand b) { return vfmaq_f32(c, a, b); }
};

struct Int {
  using acc = int32x4_t;
  using operand = int32x4_t;
  static constexpr int per = 1, lanes = 4, chains = 24;
  static acc start(int i) { return vdupq_n_s32(i); }
  static operand one() { return vdupq_n_s32(1); }
  static SBK_INLINE acc mac(acc c, operand a, operand b) { return vmlaq_s32(c, a, b); }
};

#if defined(__ARM_FEATURE_FP16_VECTOR_ARITHMETIC)
struct Half {
  using acc = float16x8_t;
  using operand = float16x8_t;
  static constexpr int per = 1, lanes = 8, chains = 24;
  static acc start(int i) { return vdupq_n_f16(static_cast<float16_t>(1 + i)); }
  static operand one() { return vdupq_n_f16(static_cast<float16_t>(1)); }
  static SBK_INLINE acc mac(acc c, operand a, operand b) { return vfmaq_f16(c, a, b); }
};
#endif

#if defined(__ARM_FEATURE_DOTPROD)
struct Int8Quads {
  using acc = int32x4_t;
  using operand = int8x16_t;
  static constexpr int per = 4, lanes = 4, chains = 24;
  static acc start(int i) { return vdupq_n_s32(i); }
  static operand one() { return vdupq_n_s8(1); }
  static SBK_INLINE acc mac(acc c, operand a, operand b) { return vdotq_s32(c, a, b); }
};
#endif

#if defined(__ARM_FEATURE_MATMUL_INT8)
struct Int8Matrices : Int8Quads {
  static constexpr int per = 8;
  static SBK_INLINE acc mac(acc c, operand a, operand b) { return vmmlaq_s32(c, a, b); }
};
#endif

#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
struct BFloat16Matrices {
  using acc = float32x4_t;
  using operand = uint16x8_t;
  static constexpr int per = 4, lanes = 4, chains = 24;
  static acc start(int i) { return vdupq_n_f32(static_cast<float>(1 + i)); }
  static operand one() { return vdupq_n_u16(0x3f80); }
  static SBK_INLINE acc mac(acc c, operand a, operand b) {
    return vbfmmlaq_f32(c, vreinterpretq_bf16_u16(a), vreinterpretq_bf16_u16(b));
  }
};
#endif

}  // namespace
