// Kernels that work row by row or only move data: LayerNorm and transposition. Contracts in table.h.
#pragma once
#include "kernels/table.h"
#include "kernels/unroll.h"

namespace sbk {
namespace {

// Sum over a row of f(vector, lanes in use): four running sums, then the tail, in an order that depends on n alone.
template <class V, class F, class G>
SBK_INLINE float sum_row(const float* x, int64_t n, F f, G scalar) {
  using f32 = typename V::f32;
  f32 s[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  int64_t c = 0;
  for (; c + 4 * V::lanes <= n; c += 4 * V::lanes) {
    unroll<4>([&](auto i) SBK_INLINE_LAMBDA { s[i] = f(s[i], V::load(x + c + i * V::lanes)); });
  }
  for (; c + V::lanes <= n; c += V::lanes) s[0] = f(s[0], V::load(x + c));
  float total = V::reduce_add(V::add(V::add(s[0], s[1]), V::add(s[2], s[3])));
  for (; c < n; c++) total += scalar(x[c]);
  return total;
}

// What LayerNorm knows of a row: x minus its mean, times rstd, is normal(x).
template <class V>
struct RowMoments {
  float mean, rest, rstd;

  // The mean of what is left corrects the rounding of the mean: eps is small enough (1e-12) for an error of one ulp to
  // turn a row of equal values into anything but beta. The variance is the sum of squared deviations, in a pass of its
  // own, not E[x^2] - mean^2, which cancels.
  SBK_INLINE RowMoments(const float* x, int64_t n, float eps) : rest(0.0f) {
    using f32 = typename V::f32;
    const float inverse_n = 1.0f / static_cast<float>(n);
    mean = inverse_n * sum_row<V>(
                           x, n, [](f32 s, f32 v) SBK_INLINE_LAMBDA { return V::add(s, v); },
                           [](float v) SBK_INLINE_LAMBDA { return v; });
    const f32 vmean = V::set1(mean);
    rest = inverse_n * sum_row<V>(
                           x, n, [&](f32 s, f32 v) SBK_INLINE_LAMBDA { return V::add(s, V::sub(v, vmean)); },
                           [&](float v) SBK_INLINE_LAMBDA { return v - mean; });
    const float variance = inverse_n * sum_row<V>(
                                           x, n,
                                           [&](f32 s, f32 v) SBK_INLINE_LAMBDA {
                                             const f32 d = deviation(v);
                                             return V::fma(d, d, s);
                                           },
                                           [&](float v) SBK_INLINE_LAMBDA { return deviation(v) * deviation(v); });
    rstd = 1.0f / __builtin_sqrtf(variance + eps);
  }
  template <class T>
  SBK_INLINE T deviation(T x) const {
    if constexpr (sizeof(T) == sizeof(float)) {
      return x - mean - rest;
    } else {
      return V::sub(V::sub(x, V::set1(mean)), V::set1(rest));
    }
  }
  template <class T>
  SBK_INLINE T normal(T x) const {
    if constexpr (sizeof(T) == sizeof(float)) {
      return deviation(x) * rstd;
    } else {
      return V::mul(deviation(x), V::set1(rstd));
    }
  }
};

template <class V>
void layer_norm(const LayerNormArgs& p) {
  for (int64_t r = 0; r < p.rows; r++) {
    const float* x = p.x + r * p.ldx;
    float* y = p.y + r * p.ldy;
    const RowMoments<V> row(x, p.n, p.eps);
    int64_t c = 0;
    const float *gamma = p.gamma, *beta = p.beta;
    const auto normalize = [&](int64_t at) SBK_INLINE_LAMBDA {
      V::store(y + at, V::fma(row.normal(V::load(x + at)), V::load(gamma + at), V::load(beta + at)));
    };
    for (; c + 4 * V::lanes <= p.n; c += 4 * V::lanes) {
      unroll<4>([&](auto i) SBK_INLINE_LAMBDA { normalize(c + i * V::lanes); });
    }
    for (; c + V::lanes <= p.n; c += V::lanes) normalize(c);
    for (; c < p.n; c++) y[c] = row.normal(x[c]) * p.gamma[c] + p.beta[c];
  }
}

template <class V>
void transpose(const TransposeArgs& p) {
  constexpr int L = V::lanes;
  for (int64_t r = 0; r < p.rows; r += L) {
    int64_t c = 0;
    if (r + L <= p.rows) {
      for (; c + L <= p.cols; c += L) {
        typename V::f32 block[L];
        unroll<L>([&](auto i) SBK_INLINE_LAMBDA { block[i] = V::load(p.x + (r + i) * p.ldx + c); });
        V::transpose(block);
        unroll<L>([&](auto i) SBK_INLINE_LAMBDA { V::store(p.y + (c + i) * p.ldy + r, block[i]); });
      }
    }
    for (; c < p.cols; c++) {
      for (int64_t i = 0; i < L; i++) p.y[c * p.ldy + r + i] = r + i < p.rows ? p.x[(r + i) * p.ldx + c] : 0.0f;
    }
  }
}

}  // namespace
}  // namespace sbk
