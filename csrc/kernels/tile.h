// The GEMM tile: MR rows by NV vectors of accumulators that never leave registers.
//
//            b  [k][ldb]           NV vectors wide
//            |........|........|........|
//   a row i  |acc[i][0]  acc[i][1]  ... |     acc[i][j] += a[i][k] * b[k][j]   for k = 0, 1, ... in order
//
// k counts units: one fp32 or fp16, two bf16 or four int8 neighbours along K (table.h). The element type E says what
// a unit is: `mac` is its only line of arithmetic (kernels/element.h). B is a packed panel (ldb = NV * lanes) or any
// row-major matrix (attention's keys and values).
#pragma once
#include <cstdint>

#include "kernels/pair_tile.h"
#include "kernels/panels.h"
#include "kernels/unroll.h"

namespace sbk {
namespace {

template <class E, int MR, int NV>
using Tile = typename E::acc[MR][NV];

// B of one step: NV vectors that lie side by side.
template <class E, int NV>
SBK_INLINE void load_row(typename E::b32 (&b)[NV], const typename E::unit* p) {
  if constexpr (requires { E::load_row(b, p); }) {
    E::load_row(b, p);
  } else {
    unroll<NV>([&](auto j) SBK_INLINE_LAMBDA { b[j] = E::load_b(p + j * E::lanes); });
  }
}

template <class E>
constexpr bool multiplies_matrices = requires(const typename E::unit* p) { E::two_rows(p, p); };

// With Prefetch, a vector of each of two streams goes to L2 in every step: memory that is needed soon.
template <class E, int MR, int NV, bool Prefetch = false>
SBK_INLINE void tile_mac(Tile<E, MR, NV>& acc, const typename E::unit* a, int64_t lda, const typename E::unit* b,
                         int64_t ldb, int64_t k, [[maybe_unused]] const typename E::unit* ahead0 = nullptr,
                         [[maybe_unused]] const typename E::unit* ahead1 = nullptr) {
  if constexpr (multiplies_matrices<E>) {
    tile_mac_pairs<E, MR, NV>(acc, a, lda, b, k);
  } else if constexpr (E::a_steps == 1) {
    for (int64_t step = 0; step < k; step++, b += ldb) {
      if constexpr (Prefetch) {
        __builtin_prefetch(ahead0 + step * E::lanes, 0, 2);
        __builtin_prefetch(ahead1 + step * E::lanes, 0, 2);
      }
      typename E::b32 bv[NV];
      load_row<E, NV>(bv, b);
      unroll<MR>([&](auto i) SBK_INLINE_LAMBDA {
        const auto av = E::load_a(a + i * lda + step);
        unroll<NV>([&](auto j) SBK_INLINE_LAMBDA { acc[i][j] = E::template mac<0>(acc[i][j], av, bv[j]); });
      });
    }
  } else {
    const typename E::unit* rows[MR];
    unroll<MR>([&](auto i) SBK_INLINE_LAMBDA { rows[i] = a + i * lda; });
    for (int64_t block = k / E::a_steps; block > 0; block--) {
      typename E::a32 av[MR];
      unroll<MR>([&](auto i) SBK_INLINE_LAMBDA { av[i] = E::next_a(rows[i]); });
      unroll<E::a_steps>([&](auto s) SBK_INLINE_LAMBDA {
        typename E::b32 bv[NV];
        load_row<E, NV>(bv, b);
        b += ldb;
        asm("" : "+r"(b));  // or each step has an address of its own, instead of a load that moves b on
        unroll<MR>([&](auto i) SBK_INLINE_LAMBDA {
          unroll<NV>([&](auto j) SBK_INLINE_LAMBDA { acc[i][j] = E::template mac<s>(acc[i][j], av[i], bv[j]); });
        });
      });
    }
#pragma GCC unroll 1  // rarely needed, and GCC would write out every step
    for (int64_t rest = k % E::a_steps; rest > 0; rest--, b += ldb) {
      typename E::b32 bv[NV];
      load_row<E, NV>(bv, b);
      unroll<MR>([&](auto i) SBK_INLINE_LAMBDA {
        const auto av = E::splat_a(rows[i]++);
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
