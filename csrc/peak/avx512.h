// The multiply-adds of the AVX-512 tiers. Each tier's file uses those that it has.
#pragma once
#include <immintrin.h>

#include "peak/peak.h"

namespace {

struct Float {
  using acc = __m512;
  using operand = __m512;
  static constexpr int per = 1, lanes = 16, chains = 24;
  static acc start(int i) { return _mm512_set1_ps(static_cast<float>(1 + i)); }
  static operand one() { return _mm512_set1_ps(1.0f); }
  static SBK_INLINE acc mac(acc c, operand a, operand b) { return _mm512_fmadd_ps(a, b, c); }
};

struct Int16Pairs {
  using acc = __m512i;
  using operand = __m512i;
  static constexpr int per = 2, lanes = 16, chains = 24;
  static acc start(int i) { return _mm512_set1_epi32(i); }
  static operand one() { return _mm512_set1_epi16(1); }
  static SBK_INLINE acc mac(acc c, operand a, operand b) { return _mm512_add_epi32(c, _mm512_madd_epi16(a, b)); }
};

#if defined(__AVX512VNNI__)
struct Int8Quads {
  using acc = __m512i;
  using operand = __m512i;
  static constexpr int per = 4, lanes = 16, chains = 24;
  static acc start(int i) { return _mm512_set1_epi32(i); }
  static operand one() { return _mm512_set1_epi8(1); }
  static SBK_INLINE acc mac(acc c, operand a, operand b) { return _mm512_dpbusd_epi32(c, a, b); }
};
#endif

#if defined(__AVX512BF16__)
struct BFloat16Pairs {
  using acc = __m512;
  using operand = __m512i;
  static constexpr int per = 2, lanes = 16, chains = 24;
  static acc start(int i) { return _mm512_set1_ps(static_cast<float>(1 + i)); }
  static operand one() { return _mm512_set1_epi16(0x3f80); }
  static SBK_INLINE acc mac(acc c, operand a, operand b) {
    return _mm512_dpbf16_ps(c, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
};
#endif

}  // namespace
