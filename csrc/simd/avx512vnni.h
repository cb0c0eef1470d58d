// AVX-512 VNNI: vpdpbusd, four products a lane. It multiplies unsigned by signed bytes, so x is stored plus 128;
// packing takes 128 times the sum of each column's weights off again.
#pragma once
#include "simd/avx512.h"

namespace sbk {
namespace {

struct VnniInt8 {
  using Vec = Avx512;
  typedef int32_t acc __attribute__((vector_size(64)));  // a plain vector type: __m512i accumulators spill in GCC 12
  using b32 = __m512i;
  using a32 = __m512i;
  static constexpr int per = 4, a_steps = 1, value_bytes = 1, zero_point = 128;

  static SBK_INLINE b32 load_b(const int32_t* p) { return _mm512_loadu_si512(p); }
  static SBK_INLINE a32 load_a(const int32_t* p) { return _mm512_set1_epi32(*p); }
  static SBK_INLINE acc load_acc(const int32_t* p) { return reinterpret_cast<acc>(load_b(p)); }
  template <int S>
  static SBK_INLINE acc mac(acc c, a32 a, b32 b) {
    return reinterpret_cast<acc>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(c), a, b));
  }
  static SBK_INLINE __m512 to_float(acc c) { return _mm512_cvtepi32_ps(reinterpret_cast<__m512i>(c)); }
  static SBK_INLINE void encode_value(void* p, float q) { *static_cast<uint8_t*>(p) = static_cast<uint8_t>(q); }
  static SBK_INLINE void encode_vector(void* p, __m512 q) {
    _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(q)));
  }
};

}  // namespace
}  // namespace sbk
