// AVX2 + FMA: 8 lanes, a tile of 6 x 2 vectors (12 accumulators, 2 of B, 1 broadcast of A; 15 of 16 registers). 4 x 3
// is as fast in GCC but spills in clang 19.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "kernels/units.h"
#include "kernels/unroll.h"

namespace sbk {
namespace {

struct Avx2 {
  static constexpr int lanes = 8, tile_rows = 6, tile_vectors = 2, a_steps = 1;
  static constexpr int batch = 4;
  static constexpr bool prefetches = true, fma_overwrites_addend = false;
  using f32 = __m256;
  using a32 = __m256;

  static SBK_INLINE __m256i first(int64_t n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane);
  }
  static SBK_INLINE f32 zero() { return _mm256_setzero_ps(); }
  static SBK_INLINE f32 set1(float x) { return _mm256_set1_ps(x); }
  static SBK_INLINE f32 load(const float* p) { return _mm256_loadu_ps(p); }
  static SBK_INLINE f32 load_partial(const float* p, int64_t n) { return _mm256_maskload_ps(p, first(n)); }
  static SBK_INLINE void store(float* p, f32 v) { _mm256_storeu_ps(p, v); }
  static SBK_INLINE void store_partial(float* p, f32 v, int64_t n) { _mm256_maskstore_ps(p, first(n), v); }
  static SBK_INLINE f32 add(f32 a, f32 b) { return _mm256_add_ps(a, b); }
  static SBK_INLINE f32 sub(f32 a, f32 b) { return _mm256_sub_ps(a, b); }
  static SBK_INLINE f32 mul(f32 a, f32 b) { return _mm256_mul_ps(a, b); }
  static SBK_INLINE f32 div(f32 a, f32 b) { return _mm256_div_ps(a, b); }
  static SBK_INLINE f32 fma(f32 a, f32 b, f32 c) { return _mm256_fmadd_ps(a, b, c); }
  static SBK_INLINE f32 min(f32 a, f32 b) { return _mm256_min_ps(a, b); }
  static SBK_INLINE f32 max(f32 a, f32 b) { return _mm256_max_ps(a, b); }
  static SBK_INLINE f32 zero_if_less(f32 r, f32 x, f32 y) {
    return _mm256_andnot_ps(_mm256_cmp_ps(x, y, _CMP_LT_OQ), r);
  }
  static SBK_INLINE f32 low_bits_as_exponent(f32 x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(x), 23));
  }
  static SBK_INLINE a32 load_a(const float* p) { return _mm256_broadcast_ss(p); }
  template <int S>
  static SBK_INLINE f32 mac(f32 c, a32 a, f32 b) {
    return _mm256_fmadd_ps(a, b, c);
  }
  using u32 = __m256i;
  static SBK_INLINE u32 set1_u32(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
  static SBK_INLINE u32 count_from(uint32_t first) {
    return _mm256_add_epi32(set1_u32(first), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static SBK_INLINE u32 bit_xor(u32 a, u32 b) { return _mm256_xor_si256(a, b); }
  static SBK_INLINE void mul_wide(u32 a, u32 b, u32& low, u32& high) {
    const __m256i even = _mm256_mul_epu32(a, b);
    const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), _mm256_srli_epi64(b, 32));
    low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
    high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
  }
  static SBK_INLINE f32 zero_if_less_u32(f32 r, u32 x, u32 y) {
    return _mm256_and_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_max_epu32(x, y), x)), r);
  }
  static SBK_INLINE void transpose(f32 (&r)[8]) {
    f32 t[8], u[8];
    unroll<4>([&](auto i) SBK_INLINE_LAMBDA {
      t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
      t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    });
    unroll<2>([&](auto i) SBK_INLINE_LAMBDA {
      u[4 * i + 0] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
      u[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
      u[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
      u[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
    });
    unroll<4>([&](auto i) SBK_INLINE_LAMBDA {
      r[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
      r[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    });
  }
  static SBK_INLINE float reduce_add(f32 v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
  static SBK_INLINE float reduce_max(f32 v) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
  }
};

// int8 as pairs of int16 (vpmaddwd): two products a lane, exact, the speed of fp32 per instruction and half its memory.
struct Avx2Int8 : Units32<Avx2> {
  // A plain vector type: accumulators of type __m256i, which may alias anything, spill in GCC 12.
  typedef int32_t acc __attribute__((vector_size(32)));
  using b32 = __m256i;
  using a32 = __m256i;
  static constexpr int per = 2, a_steps = 1, value_bytes = 2;

  static SBK_INLINE b32 load_b(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static SBK_INLINE a32 load_a(const int32_t* p) { return _mm256_set1_epi32(*p); }
  static SBK_INLINE acc first_acc(const int32_t* offset, int32_t) { return reinterpret_cast<acc>(load_b(offset)); }
  template <int S>
  static SBK_INLINE acc mac(acc c, a32 a, b32 b) {
    return c + reinterpret_cast<acc>(_mm256_madd_epi16(a, b));
  }
  static SBK_INLINE __m256 to_float(acc c) { return _mm256_cvtepi32_ps(reinterpret_cast<__m256i>(c)); }
  static SBK_INLINE void encode_value(void* p, int32_t q) {
    const int16_t value = static_cast<int16_t>(q);
    __builtin_memcpy(p, &value, sizeof value);
  }
  static SBK_INLINE void encode_vector(void* p, __m256 x, int32_t zero) {
    const __m256i wide = _mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(zero));
    const __m128i narrow = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    _mm_storeu_si128(static_cast<__m128i*>(p), narrow);
  }
};

}  // namespace
}  // namespace sbk
