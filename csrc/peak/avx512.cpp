// AVX-512 without narrow products: bf16 is multiplied as fp32, int8 as pairs of int16.
#include "peak/avx512.h"

namespace sbk {
const PeakLoops& peaks_avx512() {
  static constexpr PeakLoops loops{peak_of<Float>(), peak_of<Float>(), peak_of<Int16Pairs>(), peak_of<Float>()};
  return loops;
}
}  // namespace sbk
