// AArch64 with FEAT_FP16: fmla of halves.
#include "peak/neon.h"

namespace sbk {
const PeakLoops& peaks_neonfp16() {
  static constexpr PeakLoops loops{peak_of<Float>(), peak_of<Float>(), peak_of<Int>(), peak_of<Half>()};
  return loops;
}
}  // namespace sbk
