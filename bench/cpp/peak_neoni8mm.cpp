// AArch64 with FEAT_FP16, FEAT_DotProd and FEAT_BF16: bfdot.
#include "peak_neon.h"

namespace sbk::bench {
const PeakLoops& peaks_neoni8mm() {
  static constexpr PeakLoops loops{peak_of<Float>(), peak_of<BFloat16Pairs>(), peak_of<Int8Quads>(), peak_of<Half>()};
  return loops;
}
}  // namespace sbk::bench
