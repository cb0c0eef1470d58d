// AVX-512 (F, BW, DQ, VL): 16 lanes, a tile of 8 x 3 vectors (24 accumulators, 3 of B, broadcasts of A from memory). 8
// x 3 divides 192, 768 and 128: no remainders on SqueezeBERT's own shapes.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "kernels/units.h"
#include "kernels/unroll.h"

namespace sbk {
namespace {

struct Avx512 {
  static constexpr int lanes = 16, tile_rows = 8, tile_vectors = 3, a_steps = 1;
  static constexpr int batch = 4;
  static constexpr bool prefetches = true, fma_overwrites_addend = false;
  using f32 = __m512;
  using a32 = __m512;

  static SBK_INLINE __mmask16 first(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }
  static SBK_INLINE f32 zero() { return _mm512_setzero_ps(); }
  static SBK_INLINE f32 set1(float x) { return _mm512_set1_ps(x); }
  static SBK_INLINE f32 load(const float* p) { return _mm512_loadu_ps(p); }
  static SBK_INLINE f32 load_partial(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static SBK_INLINE void store(float* p, f32 v) { _mm512_storeu_ps(p, v); }
  static SBK_INLINE void store_partial(float* p, f32 v, int64_t n) { _mm512_mask_storeu_ps(p, first(n), v); }
  static SBK_INLINE f32 add(f32 a, f32 b) { return _mm512_add_ps(a, b); }
  static SBK_INLINE f32 sub(f32 a, f32 b) { return _mm512_sub_ps(a, b); }
  static SBK_INLINE f32 mul(f32 a, f32 b) { return _mm512_mul_ps(a, b); }
  static SBK_INLINE f32 div(f32 a, f32 b) { return _mm512_div_ps(a, b); }
  static SBK_INLINE f32 fma(f32 a, f32 b, f32 c) { return _mm512_fmadd_ps(a, b, c); }
  static SBK_INLINE f32 min(f32 a, f32 b) { return _mm512_min_ps(a, b); }
  static SBK_INLINE f32 max(f32 a, f32 b) { return _mm512_max_ps(a, b); }
  static SBK_INLINE f32 zero_if_less(f32 r, f32 x, f32 y) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, y, _CMP_NLT_UQ), r);
  }
  static SBK_INLINE f32 low_bits_as_exponent(f32 x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(x), 23));
  }
  static SBK_INLINE a32 load_a(const float* p) { return _mm512_set1_ps(*p); }
  template <int S>
  static SBK_INLINE f32 mac(f32 c, a32 a, f32 b) {
    return _mm512_fmadd_ps(a, b, c);
  }
  using u32 = __m512i;
  static SBK_INLINE u32 set1_u32(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
  static SBK_INLINE u32 count_from(uint32_t first) {
    return _mm512_add_epi32(set1_u32(first), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  }
  static SBK_INLINE u32 bit_xor(u32 a, u32 b) { return _mm512_xor_si512(a, b); }
  static SBK_INLINE void mul_wide(u32 a, u32 b, u32& low, u32& high) {
    const __m512i even = _mm512_mul_epu32(a, b);
    const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), _mm512_srli_epi64(b, 32));
    low = _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
    high = _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
  }
  static SBK_INLINE f32 zero_if_less_u32(f32 r, u32 x, u32 y) {
    return _mm512_maskz_mov_ps(_mm512_cmpge_epu32_mask(x, y), r);
  }
  static SBK_INLINE void transpose(f32 (&r)[16]) {
    f32 t[16];
    // 4 x 4 blocks within each quarter of the registers, then the quarters.
    unroll<4>([&](auto i) SBK_INLINE_LAMBDA {
      const f32 a = _mm512_unpacklo_ps(r[4 * i], r[4 * i + 1]), b = _mm512_unpackhi_ps(r[4 * i], r[4 * i + 1]);
      const f32 c = _mm512_unpacklo_ps(r[4 * i + 2], r[4 * i + 3]), d = _mm512_unpackhi_ps(r[4 * i + 2], r[4 * i + 3]);
      t[4 * i + 0] = _mm512_shuffle_ps(a, c, 0x44);
      t[4 * i + 1] = _mm512_shuffle_ps(a, c, 0xee);
      t[4 * i + 2] = _mm512_shuffle_ps(b, d, 0x44);
      t[4 * i + 3] = _mm512_shuffle_ps(b, d, 0xee);
    });
    unroll<4>([&](auto i) SBK_INLINE_LAMBDA {
      const f32 a = _mm512_shuffle_f32x4(t[i], t[i + 4], 0x88), b = _mm512_shuffle_f32x4(t[i], t[i + 4], 0xdd);
      const f32 c = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0x88),
                d = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0xdd);
      r[i] = _mm512_shuffle_f32x4(a, c, 0x88);
      r[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
      r[i + 8] = _mm512_shuffle_f32x4(a, c, 0xdd);
      r[i + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
    });
  }
  static SBK_INLINE float reduce_add(f32 v) { return _mm512_reduce_add_ps(v); }
  static SBK_INLINE float reduce_max(f32 v) { return _mm512_reduce_max_ps(v); }
};

// int8 as pairs of int16, for AVX-512 without VNNI: see Avx2Int8.
struct Avx512Int8 : Units32<Avx512> {
  typedef int32_t acc __attribute__((vector_size(64)));  // a plain vector type: __m512i accumulators spill in GCC 12
  using b32 = __m512i;
  using a32 = __m512i;
  static constexpr int per = 2, a_steps = 1, value_bytes = 2;

  static SBK_INLINE b32 load_b(const int32_t* p) { return _mm512_loadu_si512(p); }
  static SBK_INLINE a32 load_a(const int32_t* p) { return _mm512_set1_epi32(*p); }
  static SBK_INLINE acc first_acc(const int32_t* offset, int32_t) { return reinterpret_cast<acc>(load_b(offset)); }
  template <int S>
  static SBK_INLINE acc mac(acc c, a32 a, b32 b) {
    return c + reinterpret_cast<acc>(_mm512_madd_epi16(a, b));
  }
  static SBK_INLINE __m512 to_float(acc c) { return _mm512_cvtepi32_ps(reinterpret_cast<__m512i>(c)); }
  static SBK_INLINE void encode_value(void* p, int32_t q) {
    const int16_t value = static_cast<int16_t>(q);
    __builtin_memcpy(p, &value, sizeof value);
  }
  static SBK_INLINE void encode_vector(void* p, __m512 x, int32_t zero) {
    const __m512i wide = _mm512_add_epi32(_mm512_cvtps_epi32(x), _mm512_set1_epi32(zero));
    _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16(wide));
  }
};

}  // namespace
}  // namespace sbk
