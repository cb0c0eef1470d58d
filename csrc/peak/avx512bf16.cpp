// AVX-512 VNNI and BF16: vpdpbusd, vdpbf16ps.
#include "peak/avx512.h"

namespace sbk {
const PeakLoops& peaks_avx512bf16() {
  static constexpr PeakLoops loops{peak_of<Float>(), peak_of<BFloat16Pairs>(), peak_of<Int8Quads>(), peak_of<Float>()};
  return loops;
}
}  // namespace sbk
