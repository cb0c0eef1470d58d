// AVX-512 VNNI: vpdpbusd; bf16 is multiplied as fp32.
#include "peak/avx512.h"

namespace sbk {
const PeakLoops& peaks_avx512vnni() {
  static constexpr PeakLoops loops{peak_of<Float>(), peak_of<Float>(), peak_of<Int8Quads>(), peak_of<Float>()};
  return loops;
}
}  // namespace sbk
