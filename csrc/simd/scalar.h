// simd/ is the room of intrinsics: vectors and elements of every instruction set.
//
// This file: the Vec concept, which avx2.h, avx512.h and neon.h meet, and its scalar model, which runs anywhere.
//
// A Vec is a stateless struct of static functions over one register type:
//   f32, lanes          a vector of `lanes` floats
//   tile_rows           most rows of a GEMM tile     } tile_rows x tile_vectors accumulators, tile_vectors of B and
//   tile_vectors        most vectors across a tile   } one operand of A fit the register file
//   a32, a_steps        an operand of A: `a_steps` neighbours along K of one row, loaded at once
//   load_a(p)           reads one float at p, where a_steps is 1; elsewhere next_a(p) reads a_steps and moves p on, and
//                       splat_a(p) reads one
//   load_row(b, p)      optional: all registers of b, side by side, at once
//   batch               vectors that activations and softmax work on at a time, for whose constants there are registers
//   prefetches          whether a tile fetches what the next panel will read
//   fma_overwrites_addend   whether the instruction has no other destination
//   mac<s>(c, a, b)     c + a[s] * b, rounded once where the ISA has a fused multiply-add
//   load/store(p)       unaligned; load_partial/store_partial(p, n) touch the first n < lanes floats only; the rest of
//                       what is loaded is 0
//   min(a, b), max(a, b)   return b where either is NaN, so that max(limit, x) keeps a NaN of x
//   zero_if_less(r, x, y)  x < y ? 0 : r, per lane
//   low_bits_as_exponent(x)   the bits of x shifted by those of a mantissa, 23
//   round(x), i32, load_i32, set1_i32, mac_i32, to_float   where a tier has no narrow products (kernels/element.h)
//   u32, set1_u32, count_from(x), bit_xor   integers without a sign; x, x + 1, ...
//   mul_wide(a, b, low, high)   both halves of their products
//   zero_if_less_u32(r, x, y)   x < y ? 0 : r, per lane
//   transpose(r)        r[i][j] <-> r[j][i] of a lanes x lanes block
//   reduce_add/reduce_max  over the lanes, in a fixed order
//
// Everything is in an anonymous namespace: each ISA tier is compiled with flags of its own, and two tiers must never
// share a function that the linker could merge.
#pragma once
#include <cstdint>
#include <cstring>

#include "kernels/unroll.h"

namespace sbk {
namespace {

struct Scalar {
  static constexpr int lanes = 1, tile_rows = 4, tile_vectors = 4, a_steps = 1;
  static constexpr int batch = 4;
  static constexpr bool prefetches = true, fma_overwrites_addend = false;
  using f32 = float;
  using a32 = float;

  static SBK_INLINE f32 zero() { return 0.0f; }
  static SBK_INLINE f32 set1(float x) { return x; }
  static SBK_INLINE f32 load(const float* p) { return *p; }
  static SBK_INLINE f32 load_partial(const float*, int64_t) { return 0.0f; }
  static SBK_INLINE void store(float* p, f32 v) { *p = v; }
  static SBK_INLINE void store_partial(float*, f32, int64_t) {}
  static SBK_INLINE f32 add(f32 a, f32 b) { return a + b; }
  static SBK_INLINE f32 sub(f32 a, f32 b) { return a - b; }
  static SBK_INLINE f32 mul(f32 a, f32 b) { return a * b; }
  static SBK_INLINE f32 div(f32 a, f32 b) { return a / b; }
  static SBK_INLINE f32 fma(f32 a, f32 b, f32 c) { return a * b + c; }
  static SBK_INLINE f32 min(f32 a, f32 b) { return a < b ? a : b; }
  static SBK_INLINE f32 max(f32 a, f32 b) { return a > b ? a : b; }
  static SBK_INLINE f32 zero_if_less(f32 r, f32 x, f32 y) { return x < y ? 0.0f : r; }
  // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer for |x| < 2^22.
  static SBK_INLINE f32 round(f32 x) { return (x + 12582912.0f) - 12582912.0f; }
  static SBK_INLINE f32 low_bits_as_exponent(f32 x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    bits <<= 23;
    std::memcpy(&x, &bits, sizeof x);
    return x;
  }
  static SBK_INLINE a32 load_a(const float* p) { return *p; }
  template <int S>
  static SBK_INLINE f32 mac(f32 c, a32 a, f32 b) {
    return a * b + c;
  }
  using i32 = int32_t;
  static SBK_INLINE i32 load_i32(const int32_t* p) { return *p; }
  static SBK_INLINE i32 set1_i32(int32_t x) { return x; }
  // Wraps, as vectors do: weights of a damaged file may be any.
  static SBK_INLINE i32 mac_i32(i32 c, i32 a, i32 b) {
    return static_cast<i32>(static_cast<uint32_t>(c) + static_cast<uint32_t>(a) * static_cast<uint32_t>(b));
  }
  static SBK_INLINE f32 to_float(i32 v) { return static_cast<float>(v); }
  using u32 = uint32_t;
  static SBK_INLINE u32 set1_u32(uint32_t x) { return x; }
  static SBK_INLINE u32 count_from(uint32_t first) { return first; }
  static SBK_INLINE u32 bit_xor(u32 a, u32 b) { return a ^ b; }
  static SBK_INLINE void mul_wide(u32 a, u32 b, u32& low, u32& high) {
    const uint64_t product = uint64_t{a} * b;
    low = static_cast<u32>(product), high = static_cast<u32>(product >> 32);
  }
  static SBK_INLINE f32 zero_if_less_u32(f32 r, u32 x, u32 y) { return x < y ? 0.0f : r; }
  static SBK_INLINE void transpose(f32 (&)[1]) {}
  static SBK_INLINE float reduce_add(f32 v) { return v; }
  static SBK_INLINE float reduce_max(f32 v) { return v; }
};

}  // namespace
}  // namespace sbk
