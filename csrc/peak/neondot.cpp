// AArch64 with FEAT_FP16 and FEAT_DotProd: sdot.
#include "peak/neon.h"

namespace sbk {
const PeakLoops& peaks_neondot() {
  static constexpr PeakLoops loops{peak_of<Float>(), peak_of<Float>(), peak_of<Int8Quads>(), peak_of<Half>()};
  return loops;
}
}  // namespace sbk
