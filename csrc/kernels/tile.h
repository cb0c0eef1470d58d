// The GEMM tile: MR rows by NV vectors of accumulators that never leave registers.
//
//            b  [k][ldb]           NV vectors wide
//            |........|........|........|
//   a row i  |acc[i][0]  acc[i][1]  ... |     acc[i][j] += a[i][k] * b[k][j]   for k = 0, 1, ... in order
//
// k counts units of 32 bits: one fp32, two bf16 or four int8 neighbours along K (table.h). The element type E says what
// a unit is: `mac` is its only line of arithmetic (kernels/element.h). B is a packed panel (ldb = NV * lanes) or any
// row-major matrix (attention's keys and values).
#pragma once
#include <cstdint>

#include "kernels/panels.h"
#include "simd/unroll.h"

namespace sbk {
namespace {

template <class E, int MR, int NV>
using Tile = typename E::acc[MR][NV];

// With Prefetch, a vector of each of two streams goes to L2 in every step: memory that is needed soon.
template <class E, int MR, int NV, bool Prefetch = false>
SBK_INLINE void tile_mac(Tile<E, MR, NV>& acc, const int32_t* a, int64_t lda, const int32_t* b, int64_t ldb, int64_t k,
                         [[maybe_unused]] const int32_t* ahead0 = nullptr,
                         [[maybe_unused]] const int32_t* ahead1 = nullptr) {
  constexpr int lanes = E::Vec::lanes;
  int64_t step = 0;
  if constexpr (E::a_steps == 1) {
    for (; step < k; step++, b += ldb) {
      if constexpr (Prefetch) {
        __builtin_prefetch(ahead0 + step * lanes, 0, 2);
        __builtin_prefetch(ahead1 + step * lanes, 0, 2);
      }
      typename E::b32 bv[NV];
      unroll<NV>([&](auto j) SBK_INLINE_LAMBDA { bv[j] = E::load_b(b + j * lanes); });
      unroll<MR>([&](auto i) SBK_INLINE_LAMBDA {
        const auto av = E::load_a(a + i * lda + step);
        unroll<NV>([&](auto j) SBK_INLINE_LAMBDA { acc[i][j] = E::template mac<0>(acc[i][j], av, bv[j]); });
      });
    }
  } else {
    for (; step + E::a_steps <= k; step += E::a_steps) {
      typename E::a32 av[MR];
      unroll<MR>([&](auto i) SBK_INLINE_LAMBDA { av[i] = E::load_a(a + i * lda + step); });
      unroll<E::a_steps>([&](auto s) SBK_INLINE_LAMBDA {
        typename E::b32 bv[NV];
        unroll<NV>([&](auto j) SBK_INLINE_LAMBDA { bv[j] = E::load_b(b + j * lanes); });
        b += ldb;
        unroll<MR>([&](auto i) SBK_INLINE_LAMBDA {
          unroll<NV>([&](auto j) SBK_INLINE_LAMBDA { acc[i][j] = E::template mac<s>(acc[i][j], av[i], bv[j]); });
        });
      });
    }
    for (; step < k; step++, b += ldb) {
      typename E::b32 bv[NV];
      unroll<NV>([&](auto j) SBK_INLINE_LAMBDA { bv[j] = E::load_b(b + j * lanes); });
      unroll<MR>([&](auto i) SBK_INLINE_LAMBDA {
        const auto av = E::splat_a(a + i * lda + step);
        unroll<NV>([&](auto j) SBK_INLINE_LAMBDA { acc[i][j] = E::template mac<0>(acc[i][j], av, bv[j]); });
      });
    }
  }
}

// Calls f.template operator()<mr, nv>(...) for run-time 1 <= rows <= V::tile_rows and 1 <= vectors <= V::tile_vectors
// through a table of functions, one per size of tile: edges cost a smaller tile, never padding.
template <class V, class F, class Args>
SBK_INLINE void dispatch_tile(int rows, int vectors, const Args& args) {
  using Function = void (*)(const Args&);
  static constexpr auto table = []<int... I>(std::integer_sequence<int, I...>) {
    struct {
      Function f[sizeof...(I)];
    } t{{&F::template run<I / V::tile_vectors + 1, I % V::tile_vectors + 1>...}};
    return t;
  }(std::make_integer_sequence<int, V::tile_rows * V::tile_vectors>{});
  table.f[(rows - 1) * V::tile_vectors + vectors - 1](args);
}

// f(panel) for the panels of `vectors` vectors.
template <class V, class F>
SBK_INLINE void for_each_panel(int64_t vectors, F&& f) {
  const int64_t panels = panel_count(vectors, V::tile_vectors);
  for (int64_t p = 0; p < panels; p++) f(panel_at(vectors, V::tile_vectors, p));
}

}  // namespace
}  // namespace sbk
