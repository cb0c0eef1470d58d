// AVX512-BF16: vdpbf16ps, two products a lane, summed in fp32 (denormals count as zero).
#pragma once
#include "simd/avx512.h"

namespace sbk {
namespace {

struct DotBF16 : Units32<Avx512> {
  using acc = __m512;
  using b32 = __m512i;
  using a32 = __m512i;
  static constexpr int per = 2, a_steps = 1, value_bytes = 2;

  static SBK_INLINE b32 load_b(const int32_t* p) { return _mm512_loadu_si512(p); }
  static SBK_INLINE a32 load_a(const int32_t* p) { return _mm512_set1_epi32(*p); }
  template <int S>
  static SBK_INLINE acc mac(acc c, a32 a, b32 b) {
    return _mm512_dpbf16_ps(c, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
  static SBK_INLINE __m256i narrow(__m512 x) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)); }
  static SBK_INLINE void encode_value(void* p, float x) {
    const uint16_t value = static_cast<uint16_t>(_mm256_extract_epi16(narrow(_mm512_set1_ps(x)), 0));
    __builtin_memcpy(p, &value, sizeof value);
  }
  static SBK_INLINE void encode_vector(void* p, __m512 x) { _mm256_storeu_si256(static_cast<__m256i*>(p), narrow(x)); }
  static SBK_INLINE void store_stacked(int32_t* p, const __m512 (&rows)[2]) {
    const __m512i low = _mm512_cvtepu16_epi32(narrow(rows[0])), high = _mm512_cvtepu16_epi32(narrow(rows[1]));
    _mm512_storeu_si512(p, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
  }
};

}  // namespace
}  // namespace sbk
