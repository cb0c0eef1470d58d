// AArch64 with FEAT_FP16, FEAT_BF16 and FEAT_I8MM: bfmmla, smmla.
#include "peak/neon.h"

namespace sbk {
const PeakLoops& peaks_neoni8mm() {
  static constexpr PeakLoops loops{peak_of<Float>(), peak_of<BFloat16Matrices>(), peak_of<Int8Matrices>(),
                                   peak_of<Half>()};
  return loops;
}
}  // namespace sbk
