// Plain C++: what a compiler makes of four lanes with the instructions that every CPU of this kind has.
#include "peak/peak.h"

namespace {

typedef float f32x4 __attribute__((vector_size(16)));
typedef int32_t i32x4 __attribute__((vector_size(16)));

struct Float {
  using acc = f32x4;
  using operand = f32x4;
  static constexpr int per = 1, lanes = 4, chains = 12;
  static acc start(int i) { return acc{} + static_cast<float>(1 + i); }
  static operand one() { return operand{} + 1.0f; }
  static SBK_INLINE acc mac(acc c, operand a, operand b) { return a * b + c; }
};

struct Int {
  using acc = i32x4;
  using operand = i32x4;
  static constexpr int per = 1, lanes = 4, chains = 8;
  static acc start(int i) { return acc{} + i; }
  static operand one() { return operand{} + 1; }
  static SBK_INLINE acc mac(acc c, operand a, operand b) { return a * b + c; }
};

}  // namespace

namespace sbk {
const PeakLoops& peaks_scalar() {
  static constexpr PeakLoops loops{peak_of<Float>(), peak_of<Float>(), peak_of<Int>(), peak_of<Float>()};
  return loops;
}
}  // namespace sbk
