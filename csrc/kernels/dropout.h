// Dropout: its random numbers and what multiplies by them. Contracts in table.h.
#pragma once
#include <cstdint>

#include "kernels/table.h"
#include "kernels/unroll.h"

namespace sbk {
namespace {

// Counters that one step of the generator draws from: as many as the widest vector has lanes. Each gives Philox's four
// words, one for a column.
constexpr int dropout_counters = 16;
constexpr int64_t dropout_columns = 4 * dropout_counters;

// The factors of columns [column, column + dropout_columns) of a row; column is a multiple of dropout_columns.
template <class V>
SBK_INLINE void dropout_factors(const Dropout& d, int64_t row, int64_t column, float* factors) {
  using u32 = typename V::u32;
  const u32 multiplier0 = V::set1_u32(0xd2511f53u), multiplier1 = V::set1_u32(0xcd9e8d57u);
  const u32 threshold = V::set1_u32(d.threshold);
  const typename V::f32 scale = V::set1(d.scale);
  const auto first = static_cast<uint32_t>(column / dropout_columns * dropout_counters);
  for (int i = 0; i < dropout_counters; i += V::lanes) {
    u32 word[4] = {V::count_from(first + static_cast<uint32_t>(i)), V::set1_u32(static_cast<uint32_t>(row)),
                   V::set1_u32(static_cast<uint32_t>(static_cast<uint64_t>(row) >> 32)), V::set1_u32(d.site)};
    auto key0 = static_cast<uint32_t>(d.seed), key1 = static_cast<uint32_t>(d.seed >> 32);
    unroll<10>([&](auto) SBK_INLINE_LAMBDA {
      u32 low0, high0, low1, high1;
      V::mul_wide(word[0], multiplier0, low0, high0);
      V::mul_wide(word[2], multiplier1, low1, high1);
      word[0] = V::bit_xor(V::bit_xor(high1, word[1]), V::set1_u32(key0));
      word[2] = V::bit_xor(V::bit_xor(high0, word[3]), V::set1_u32(key1));
      word[1] = low1, word[3] = low0;
      key0 += 0x9e3779b9u, key1 += 0xbb67ae85u;
    });
    unroll<4>([&](auto w) SBK_INLINE_LAMBDA {
      V::store(factors + w * dropout_counters + i, V::zero_if_less_u32(scale, word[w], threshold));
    });
  }
}

// f(at, n, factors) for pieces of up to dropout_columns columns of a row of `columns`.
template <class V, class F>
SBK_INLINE void for_each_piece(const Dropout& d, int64_t row, int64_t columns, F f) {
  float factors[dropout_columns];
  for (int64_t at = 0; at < columns; at += dropout_columns) {
    dropout_factors<V>(d, row, at, factors);
    f(at, columns - at < dropout_columns ? columns - at : dropout_columns, factors);
  }
}

// f(at) for whole vectors of [0, n), then g(at, rest) for what is left, if anything.
template <class V, class F, class G>
SBK_INLINE void for_each_column(int64_t n, F f, G g) {
  int64_t c = 0;
  for (; c + V::lanes <= n; c += V::lanes) f(c);
  if (c < n) g(c, n - c);
}

template <class V>
void dropout(const DropoutArgs& p) {
  for (int64_t r = 0; r < p.rows; r++) {
    const float* x = p.x + r * p.ldx;
    const float* residual = p.residual ? p.residual + r * p.ldr : nullptr;
    float* y = p.y + r * p.ldy;
    for_each_piece<V>(
        p.dropout, p.first_row + r, p.n, [&](int64_t at, int64_t n, const float* factors) SBK_INLINE_LAMBDA {
          for_each_column<V>(
              n,
              [&](int64_t c) SBK_INLINE_LAMBDA {
                const auto rest = residual ? V::load(residual + at + c) : V::zero();
                V::store(y + at + c, V::fma(V::load(x + at + c), V::load(factors + c), rest));
              },
              [&](int64_t c, int64_t left) SBK_INLINE_LAMBDA {
                const auto rest = residual ? V::load_partial(residual + at + c, left) : V::zero();
                V::store_partial(y + at + c, V::fma(V::load_partial(x + at + c, left), V::load(factors + c), rest),
                                 left);
              });
        });
  }
}

}  // namespace
}  // namespace sbk
