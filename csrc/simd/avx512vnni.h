// AVX-512 VNNI: vpdpbusd, four products a lane. It multiplies unsigned by signed bytes, so x is stored plus the zero of
// its row; sums begin with as many times what packing has left for it, minus the sum of each column's weights.
#pragma once
#include "simd/avx512.h"

namespace sbk {
namespace {

// Loads and conversions are those of Avx512Int8.
struct VnniInt8 : Avx512Int8 {
  static constexpr int per = 4, value_bytes = 1;
  static constexpr int32_t least = 0;

  static SBK_INLINE acc first_acc(const int32_t* offset, int32_t zero) {
    return reinterpret_cast<acc>(_mm512_mullo_epi32(load_b(offset), _mm512_set1_epi32(zero)));
  }
  template <int S>
  static SBK_INLINE acc mac(acc c, a32 a, b32 b) {
    return reinterpret_cast<acc>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(c), a, b));
  }
  static SBK_INLINE void encode_value(void* p, int32_t q) { *static_cast<uint8_t*>(p) = static_cast<uint8_t>(q); }
  static SBK_INLINE void encode_vector(void* p, __m512 x, int32_t zero) {
    const __m512i wide = _mm512_add_epi32(_mm512_cvtps_epi32(x), _mm512_set1_epi32(zero));
    _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtepi32_epi8(wide));
  }
};

}  // namespace
}  // namespace sbk
