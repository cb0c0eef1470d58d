// Registers as matrices of two rows, for instructions that multiply two of them (kernels/pair_tile.h).
#pragma once
#include "simd/neon.h"

namespace sbk {
namespace {

// B32: the register type of 16 bytes of A or B.
template <class B32>
struct NeonMatrix {
  using unit = int64_t;  // a row
  using b32 = B32;

  template <int N>
  static SBK_INLINE void load_row(b32 (&b)[N], const unit* p) {
    load_neon_row(b, p);
  }
  // 16 bytes of a row of A, and p moves on behind them; written out like next_neon_a.
  static SBK_INLINE b32 next_a(const unit*& p) {
    float32x4_t a;
    asm("ldr %q0, [%1], #16" : "=w"(a), "+r"(p) : "m"(*reinterpret_cast<const char (*)[16]>(p)));
    return reinterpret_cast<b32>(a);
  }
  static SBK_INLINE b32 two_rows(const unit* first, const unit* second) {
    return reinterpret_cast<b32>(vcombine_s64(vld1_s64(first), vld1_s64(second)));
  }
  // The lower halves of x and y, and the upper ones. Its own inverse.
  template <class T>
  static SBK_INLINE void join(T x, T y, T& low, T& high) {
    const int64x2_t first = reinterpret_cast<int64x2_t>(x), second = reinterpret_cast<int64x2_t>(y);
    low = reinterpret_cast<T>(vtrn1q_s64(first, second)), high = reinterpret_cast<T>(vtrn2q_s64(first, second));
  }
};

}  // namespace
}  // namespace sbk
