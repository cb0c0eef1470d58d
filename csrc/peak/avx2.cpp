// AVX2 + FMA: bf16 is multiplied as fp32, int8 as pairs of int16 (vpmaddwd, vpaddd).
#include <immintrin.h>

#include "peak/peak.h"

namespace {

struct Float {
  using acc = __m256;
  using operand = __m256;
  static constexpr int per = 1, lanes = 8, chains = 12;
  static acc start(int i) { return _mm256_set1_ps(static_cast<float>(1 + i)); }
  static operand one() { return _mm256_set1_ps(1.0f); }
  static SBK_INLINE acc mac(acc c, operand a, operand b) { return _mm256_fmadd_ps(a, b, c); }
};

struct Int16Pairs {
  using acc = __m256i;
  using operand = __m256i;
  static constexpr int per = 2, lanes = 8, chains = 12;
  static acc start(int i) { return _mm256_set1_epi32(i); }
  static operand one() { return _mm256_set1_epi16(1); }
  static SBK_INLINE acc mac(acc c, operand a, operand b) { return _mm256_add_epi32(c, _mm256_madd_epi16(a, b)); }
};

}  // namespace

namespace sbk {
const PeakLoops& peaks_avx2() {
  static constexpr PeakLoops loops{peak_of<Float>(), peak_of<Float>(), peak_of<Int16Pairs>(), peak_of<Float>()};
  return loops;
}
}  // namespace sbk
