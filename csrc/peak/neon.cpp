// AArch64, armv8.0: bf16 and fp16 are multiplied as fp32, int8 as int32.
#include "peak/neon.h"

namespace sbk {
const PeakLoops& peaks_neon() {
  static constexpr PeakLoops loops{peak_of<Float>(), peak_of<Float>(), peak_of<Int>(), peak_of<Float>()};
  return loops;
}
}  // namespace sbk
