// AArch64, armv8.0: bf16 is multiplied as fp32, int8 as int32.
#include <arm_neon.h>

#include "peak.h"

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

}  // namespace

namespace sbk::bench {
const PeakLoops& peaks_neon() {
  static constexpr PeakLoops loops{peak_of<Float>(), peak_of<Float>(), peak_of<Int>()};
  return loops;
}
}  // namespace sbk::bench
