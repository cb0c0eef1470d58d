// One head of attention over blocks of queries and keys: AttentionArgs in table.h.
//
// Per block of query_block rows: for each block of key_block keys, scores into scratch, one pass of softmax over them
// that also adds the mask, then the probabilities times V onto the running context. With up to key_block keys there is
// one block, and the running maximum never has to be corrected.
#pragma once
#include "kernels/conv.h"
#include "kernels/math.h"
#include "kernels/table.h"
#include "kernels/tile.h"

namespace sbk {
namespace {

// A multiple of every tier's tile_rows (4, 6 or 8): whole tiles but in the last block.
constexpr int64_t query_block = 24;
// The longest sequence that models of the BERT family take. The scores of a block, 50 kB, stay in L2.
constexpr int64_t key_block = 512;

// T: a Vec or an element type, for its lanes.
template <class T>
constexpr int64_t round_up_lanes(int64_t n) {
  return (n + T::lanes - 1) / T::lanes * T::lanes;
}

// Floats between rows of scores for `keys` keys.
template <class T>
constexpr int64_t score_stride(int64_t keys) {
  return round_up_lanes<T>(keys < key_block ? keys : key_block) + kRowGap;
}

// Scratch: scores [query_block][score_stride], context [query_block][d rounded up], running maximum and sum per row.
template <class T>
int64_t attention_scratch(int64_t keys, int64_t d) {
  return query_block * (score_stride<T>(keys) + round_up_lanes<T>(d) + 2);
}

// c[rows][vectors] = a[rows][k] * b[k][...], or += with `accumulate`; c is padded to whole vectors; k in units.
template <class E>
struct GemmTileArgs {
  const typename E::unit* a;
  int64_t lda;
  const typename E::unit* b;
  int64_t ldb;
  float* c;
  int64_t ldc, k;
  bool accumulate;
};

template <class E>
struct GemmTile {
  using V = typename E::Vec;

  template <int MR, int NV>
  static void run(const GemmTileArgs<E>& t) {
    Tile<E, MR, NV> acc;
    unroll<MR>([&](auto i) SBK_INLINE_LAMBDA {
      unroll<NV>([&](auto j) SBK_INLINE_LAMBDA {
        acc[i][j] = t.accumulate ? V::load(t.c + i * t.ldc + j * V::lanes) : V::zero();
      });
    });
    tile_mac<E, MR, NV>(acc, t.a, t.lda, t.b, t.ldb, t.k);
    unroll<MR>([&](auto i) SBK_INLINE_LAMBDA {
      unroll<NV>([&](auto j) SBK_INLINE_LAMBDA { V::store(t.c + i * t.ldc + j * V::lanes, acc[i][j]); });
    });
  }
};

// Sums live in c, as in ChunkedConvTile.
template <class E>
struct ChunkedGemmTile {
  using V = typename E::Vec;

  template <int MR, int NV>
  static void run(const GemmTileArgs<E>& t) {
    for (int64_t first = 0; first < t.k; first += E::chunk) {
      Tile<E, MR, NV> acc{};
      const int64_t left = t.k - first;
      tile_mac<E, MR, NV>(acc, t.a + first, t.lda, t.b + first * t.ldb, t.ldb, left < E::chunk ? left : E::chunk);
      const bool accumulate = t.accumulate || first > 0;
      unroll<MR>([&](auto i) SBK_INLINE_LAMBDA {
        unroll<NV>([&](auto j) SBK_INLINE_LAMBDA {
          unroll<E::lanes / V::lanes>([&](auto h) SBK_INLINE_LAMBDA {
            float* c = t.c + i * t.ldc + j * E::lanes + h * V::lanes;
            const typename V::f32 sum = E::template widened<h>(acc[i][j]);
            V::store(c, accumulate ? V::add(V::load(c), sum) : sum);
          });
        });
      });
    }
  }
};

template <class E>
SBK_INLINE void gemm(const GemmTileArgs<E>& t, int64_t rows, int64_t vectors) {
  using V = typename E::Vec;
  for_each_panel<V>(vectors, [&](Panel panel) SBK_INLINE_LAMBDA {
    for (int64_t row = 0; row < rows; row += V::tile_rows) {
      const int64_t left = rows - row;
      GemmTileArgs<E> tile = t;
      tile.a += row * t.lda;
      tile.b += panel.first * E::lanes;
      tile.c += row * t.ldc + panel.first * E::lanes;
      using Kernel = std::conditional_t<E::chunk == 0, GemmTile<E>, ChunkedGemmTile<E>>;
      dispatch_tile<V, Kernel>(static_cast<int>(left < V::tile_rows ? left : V::tile_rows), panel.width, tile);
    }
  });
}

// Scales `keys` scores and adds the mask, turns them into exp(score - maximum) and returns the factor by which what was
// accumulated before must shrink. Lanes behind `keys` become probability 0.
template <class V>
SBK_INLINE float softmax_step(float* s, const float* mask, int64_t keys, float scale, float& running_max, float& sum) {
  using f32 = typename V::f32;
  const float infinity = __builtin_inff();
  const int64_t padded = round_up_lanes<V>(keys);
  for (int64_t c = keys; c < padded; c++) s[c] = -infinity;
  // Without a mask, and where scaling keeps the order, the scores are read once to find the maximum, and scaled when
  // they are read again.
  const bool scales_late = !mask && scale > 0.0f;
  float block_max = -infinity;
  if (scales_late) {
    f32 greatest[4];
    for (auto& lane : greatest) lane = V::set1(-infinity);
    int64_t c = 0;
    for (; c + 4 * V::lanes <= padded; c += 4 * V::lanes) {
      unroll<4>([&](auto i) SBK_INLINE_LAMBDA { greatest[i] = V::max(greatest[i], V::load(s + c + i * V::lanes)); });
    }
    for (; c < padded; c += V::lanes) greatest[0] = V::max(greatest[0], V::load(s + c));
    block_max = scale * V::reduce_max(V::max(V::max(greatest[0], greatest[1]), V::max(greatest[2], greatest[3])));
  } else {
    const f32 vscale = V::set1(scale);
    f32 vmax = V::set1(-infinity);
    int64_t c = 0;
    for (; c + V::lanes <= keys; c += V::lanes) {
      f32 x = V::mul(V::load(s + c), vscale);
      if (mask) x = V::add(x, V::load(mask + c));
      V::store(s + c, x);
      vmax = V::max(vmax, x);
    }
    block_max = V::reduce_max(vmax);
    for (; c < keys; c++) {
      s[c] = s[c] * scale + (mask ? mask[c] : 0.0f);
      block_max = s[c] > block_max ? s[c] : block_max;
    }
  }

  const float new_max = block_max > running_max ? block_max : running_max;
  // All -inf so far: any finite reference gives exp(-inf) = 0; -inf itself would give NaN before a finite score
  // arrives.
  const float reference = new_max == -infinity ? 0.0f : new_max;
  const f32 vreference = V::set1(reference), factor = V::set1(scales_late ? scale : 1.0f);
  f32 vsum = V::zero();
  const auto exponentiate = [&](int64_t at) SBK_INLINE_LAMBDA {
    const f32 e = vexp<V>(V::sub(V::mul(V::load(s + at), factor), vreference));
    V::store(s + at, e);
    vsum = V::add(vsum, e);
  };
  int64_t c = 0;
  for (; c + V::batch * V::lanes <= padded; c += V::batch * V::lanes) {
    unroll<V::batch>([&](auto i) SBK_INLINE_LAMBDA { exponentiate(c + i * V::lanes); });
  }
  for (; c < padded; c += V::lanes) exponentiate(c);
  const float shrink = running_max == -infinity ? 0.0f : V::reduce_max(vexp<V>(V::set1(running_max - reference)));
  running_max = new_max;
  sum = sum * shrink + V::reduce_add(vsum);
  return shrink;
}

// What attention<E> reads is not floats.
template <class E>
constexpr bool multiplies_less_than_fp32 = E::per > 1 || E::chunk != 0;

template <class E>
void attention(const AttentionArgs& p) {
  using V = typename E::Vec;
  static_assert(query_block % V::tile_rows == 0 && key_block % E::lanes == 0 && key_block % E::per == 0);
  using f32 = typename V::f32;
  using unit = typename E::unit;
  const int64_t dp = round_up_lanes<E>(p.d), d_units = (p.d + E::per - 1) / E::per;
  const int64_t lds = score_stride<E>(p.keys), score_units = lds * static_cast<int64_t>(sizeof(float) / sizeof(unit));
  float* scores = p.scratch;
  float* context = scores + query_block * lds;
  float* running_max = context + query_block * dp;
  float* sum = running_max + query_block;
  const auto* q = static_cast<const unit*>(p.q);
  const auto* kt = static_cast<const unit*>(p.kt);
  const auto* v = static_cast<const unit*>(p.v);

  for (int64_t row = 0; row < p.rows; row += query_block) {
    const int64_t rows = p.rows - row < query_block ? p.rows - row : query_block;
    for (int64_t r = 0; r < rows; r++) running_max[r] = -__builtin_inff(), sum[r] = 0.0f;

    for (int64_t key = 0; key < p.keys; key += key_block) {
      const int64_t keys = p.keys - key < key_block ? p.keys - key : key_block;
      gemm<E>({q + row * p.ldq, p.ldq, kt + key, p.ldk, scores, lds, d_units, false}, rows,
              (keys + E::lanes - 1) / E::lanes);
      for (int64_t r = 0; r < rows; r++) {
        const float* mask = p.mask ? p.mask + (row + r) * p.mask_row_stride + key : nullptr;
        float* s = scores + r * lds;
        const float shrink = softmax_step<V>(s, mask, keys, p.scale, running_max[r], sum[r]);
        // In place: what is written lies behind what is still to be read. keys is even but in the last block, and then
        // a probability 0 is behind them, or the unit is completed with one.
        if constexpr (multiplies_less_than_fp32<E>) encode_rounded<E>({s, lds, s, score_units, nullptr, 1, keys});
        if (key > 0) {
          const f32 factor = V::set1(shrink);
          float* c = context + r * dp;
          for (int64_t j = 0; j < dp; j += V::lanes) V::store(c + j, V::mul(V::load(c + j), factor));
        }
      }
      gemm<E>({reinterpret_cast<const unit*>(scores), score_units, v + key / E::per * p.ldv, p.ldv, context, dp,
               (keys + E::per - 1) / E::per, key > 0},
              rows, dp / E::lanes);
    }

    for (int64_t r = 0; r < rows; r++) {
      const f32 total = V::set1(sum[r]);
      const float* c = context + r * dp;
      float* out = p.context + (row + r) * p.ldc;
      int64_t j = 0;
      for (; j + V::lanes <= p.d; j += V::lanes) V::store(out + j, V::div(V::load(c + j), total));
      if (j < p.d) V::store_partial(out + j, V::div(V::load(c + j), total), p.d - j);
    }
  }
}

// E::per rows of x as one of units: StackRowsArgs in table.h.
template <class E>
void stack_rows(const StackRowsArgs& p) {
  using V = typename E::Vec;
  if constexpr (E::per == 1) {
    encode_rounded<E>({p.x, p.ldx, p.y, p.ldy, nullptr, p.rows, p.cols});
  } else {
    for (int64_t r = 0; r < p.rows; r += E::per) {
      auto* y = static_cast<typename E::unit*>(p.y) + r / E::per * p.ldy;
      for (int64_t c = 0; c < p.cols; c += V::lanes) {
        const int64_t left = p.cols - c;
        typename V::f32 rows[E::per];
        unroll<E::per>([&](auto i) SBK_INLINE_LAMBDA {
          const float* x = p.x + (r + i) * p.ldx + c;
          rows[i] = r + i >= p.rows ? V::zero() : left < V::lanes ? V::load_partial(x, left) : V::load(x);
        });
        E::store_stacked(y + c, rows);
      }
    }
  }
}

}  // namespace
}  // namespace sbk
