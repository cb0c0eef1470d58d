// The GEMM tile where an instruction multiplies matrices of 2 x per by per x 2 values: rows and columns go in pairs,
// and a register of sums holds two columns of two rows.
//
//                        b: per values of column c, per values of column c + 1
//   a: per of row r      |  sum[r][c]      sum[r][c + 1]  |
//      per of row r + 1  |  sum[r + 1][c]  sum[r + 1][c + 1]  |
#pragma once
#include <cstdint>

#include "kernels/unroll.h"

namespace sbk {
namespace {

// As tile_mac (tile.h), for a packed panel. acc comes and goes as rows.
template <class E, int MR, int NV>
SBK_INLINE void tile_mac_pairs(typename E::acc (&acc)[MR][NV], const typename E::unit* a, int64_t lda,
                               const typename E::unit* b, int64_t k) {
  using b32 = typename E::b32;
  constexpr int pairs = (MR + 1) / 2;
  // The last row of an odd number of them is its own partner.
  constexpr auto first = [](int p) { return 2 * p; };
  constexpr auto second = [](int p) { return 2 * p + 1 < MR ? 2 * p + 1 : 2 * p; };

  typename E::acc sums[pairs][2 * NV];
  unroll<pairs>([&](auto p) SBK_INLINE_LAMBDA {
    unroll<NV>([&](auto j) SBK_INLINE_LAMBDA {
      E::join(acc[first(p)][j], acc[second(p)][j], sums[p][2 * j], sums[p][2 * j + 1]);
    });
  });
  const auto mac = [&](const b32(&av)[pairs]) SBK_INLINE_LAMBDA {
    unroll<NV>([&](auto j) SBK_INLINE_LAMBDA {
      b32 bv[2];
      E::load_row(bv, b);
      b += E::lanes;
      asm("" : "+r"(b));  // as in tile_mac
      unroll<pairs>([&](auto p) SBK_INLINE_LAMBDA {
        sums[p][2 * j] = E::mac(sums[p][2 * j], av[p], bv[0]);
        sums[p][2 * j + 1] = E::mac(sums[p][2 * j + 1], av[p], bv[1]);
      });
    });
  };
  const typename E::unit* rows[MR];
  unroll<MR>([&](auto i) SBK_INLINE_LAMBDA { rows[i] = a + i * lda; });
  // A register of A is two steps of a row; more of them at once leave clang too few for B.
  int64_t left = k;
  for (; left >= 2; left -= 2) {
    b32 row[MR], av[2][pairs];
    unroll<MR>([&](auto i) SBK_INLINE_LAMBDA { row[i] = E::next_a(rows[i]); });
    unroll<pairs>([&](auto p) SBK_INLINE_LAMBDA { E::join(row[first(p)], row[second(p)], av[0][p], av[1][p]); });
    mac(av[0]), mac(av[1]);
  }
  if (left > 0) {
    b32 av[pairs];
    unroll<pairs>([&](auto p) SBK_INLINE_LAMBDA { av[p] = E::two_rows(rows[first(p)], rows[second(p)]); });
    mac(av);
  }
  unroll<pairs>([&](auto p) SBK_INLINE_LAMBDA {
    unroll<NV>([&](auto j) SBK_INLINE_LAMBDA {
      E::join(sums[p][2 * j], sums[p][2 * j + 1], acc[first(p)][j], acc[second(p)][j]);
    });
  });
}

}  // namespace
}  // namespace sbk
