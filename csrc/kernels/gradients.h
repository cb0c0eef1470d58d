// Kernels of gradients: contracts in table.h.
#pragma once
#include "kernels/attention.h"
#include "kernels/dropout.h"
#include "kernels/math.h"
#include "kernels/rowwise.h"
#include "kernels/table.h"

namespace sbk {
namespace {

template <class E>
void gemm_rows(const GemmArgs& p) {
  const auto* a = reinterpret_cast<const typename E::unit*>(p.a);
  const auto* b = reinterpret_cast<const typename E::unit*>(p.b);
  gemm<E>({a, p.lda, b, p.ldb, p.c, p.ldc, p.k, p.accumulate}, p.rows, (p.columns + E::lanes - 1) / E::lanes);
}

template <class V>
void softmax(const SoftmaxArgs& p) {
  using f32 = typename V::f32;
  const int64_t padded = round_up_lanes<V>(p.keys);
  for (int64_t r = 0; r < p.rows; r++) {
    float* s = p.scores + r * p.lds;
    const float* mask = p.mask ? p.mask + r * p.mask_row_stride : nullptr;
    float max = -__builtin_inff(), sum = 0.0f;
    softmax_step<V>(s, mask, p.keys, p.scale, max, sum);
    const f32 inverse = V::set1(1.0f / sum);
    for (int64_t c = 0; c < padded; c += V::lanes) V::store(s + c, V::mul(V::load(s + c), inverse));
    if (p.dropped == p.scores) continue;
    float* y = p.dropped + r * p.lds;
    for_each_piece<V>(p.dropout, p.first_row + r, padded,
                      [&](int64_t at, int64_t n, const float* factors) SBK_INLINE_LAMBDA {
                        for (int64_t c = 0; c < n; c += V::lanes) {
                          V::store(y + at + c, V::mul(V::load(s + at + c), V::load(factors + c)));
                        }
                      });
  }
}

template <class V>
void softmax_backward(const SoftmaxBackwardArgs& p) {
  using f32 = typename V::f32;
  const f32 scale = V::set1(p.scale);
  for (int64_t r = 0; r < p.rows; r++) {
    const float *probability = p.p + r * p.lds, *dropped = p.dropped + r * p.lds;
    float* grad = p.grad + r * p.lds;
    f32 sum = V::zero(), rest = V::zero();
    for_each_column<V>(
        p.keys, [&](int64_t c) SBK_INLINE_LAMBDA { sum = V::fma(V::load(dropped + c), V::load(grad + c), sum); },
        [&](int64_t c, int64_t left)
            SBK_INLINE_LAMBDA { rest = V::mul(V::load_partial(dropped + c, left), V::load_partial(grad + c, left)); });
    const f32 delta = V::set1(V::reduce_add(V::add(sum, rest)));
    const auto of_score = [&](f32 g, f32 d, f32 prob)
                              SBK_INLINE_LAMBDA { return V::mul(scale, V::sub(V::mul(g, d), V::mul(prob, delta))); };
    for_each_column<V>(
        p.keys,
        [&](int64_t c) SBK_INLINE_LAMBDA {
          V::store(grad + c, of_score(V::load(grad + c), V::load(dropped + c), V::load(probability + c)));
        },
        [&](int64_t c, int64_t left) SBK_INLINE_LAMBDA {
          V::store_partial(grad + c,
                           of_score(V::load_partial(grad + c, left), V::load_partial(dropped + c, left),
                                    V::load_partial(probability + c, left)),
                           left);
        });
  }
}

// f(z) -> {activation(z), activation'(z)} applied to a block.
template <class V, class F>
SBK_INLINE void activation_backward_by(const ActivationBackwardArgs& p, F f) {
  using f32 = typename V::f32;
  struct Both {
    f32 value, slope;
  };
  for (int64_t r = 0; r < p.rows; r++) {
    const float* z = p.z + r * p.ldz;
    float *grad = p.grad + r * p.ldg, *y = p.y + r * p.ldy;
    for_each_column<V>(
        p.n,
        [&](int64_t c) SBK_INLINE_LAMBDA {
          Both both;
          f(V::load(z + c), both.value, both.slope);
          V::store(y + c, both.value);
          V::store(grad + c, V::mul(V::load(grad + c), both.slope));
        },
        [&](int64_t c, int64_t left) SBK_INLINE_LAMBDA {
          Both both;
          f(V::load_partial(z + c, left), both.value, both.slope);
          V::store_partial(y + c, both.value, left);
          V::store_partial(grad + c, V::mul(V::load_partial(grad + c, left), both.slope), left);
        });
  }
}

// The second pass over a row of gelu_backward: y holds Phi(z).
template <class V>
SBK_NOINLINE void gelu_backward_of_cdf(const float* z, float* grad, float* y, int64_t n) {
  using f32 = typename V::f32;
  const auto slope = [](f32 z, f32 cdf) SBK_INLINE_LAMBDA {
    const f32 density = V::mul(vexp<V, true>(V::mul(V::mul(z, z), V::set1(-0.5f))), V::set1(0.398942280f));
    return V::fma(z, density, cdf);
  };
  for_each_column<V>(
      n,
      [&](int64_t c) SBK_INLINE_LAMBDA {
        const f32 vz = V::load(z + c), cdf = V::load(y + c);
        V::store(grad + c, V::mul(V::load(grad + c), slope(vz, cdf)));
        V::store(y + c, V::mul(vz, cdf));
      },
      [&](int64_t c, int64_t left) SBK_INLINE_LAMBDA {
        const f32 vz = V::load_partial(z + c, left), cdf = V::load_partial(y + c, left);
        V::store_partial(grad + c, V::mul(V::load_partial(grad + c, left), slope(vz, cdf)), left);
        V::store_partial(y + c, V::mul(vz, cdf), left);
      });
}

// Phi(z) + z phi(z), phi(z) = exp(-z^2 / 2) / sqrt(2 pi). In two passes over a row, the second a function of its own:
// there are no registers for the constants of both, and a compiler that sees both loops keeps both sets.
template <class V>
SBK_INLINE void gelu_backward(const ActivationBackwardArgs& p) {
  for (int64_t r = 0; r < p.rows; r++) {
    const float* z = p.z + r * p.ldz;
    float* y = p.y + r * p.ldy;
    for_each_column<V>(
        p.n, [&](int64_t c) SBK_INLINE_LAMBDA { V::store(y + c, normal_cdf<V, Erf>(V::load(z + c))); },
        [&](int64_t c, int64_t left)
            SBK_INLINE_LAMBDA { V::store_partial(y + c, normal_cdf<V, Erf>(V::load_partial(z + c, left)), left); });
    gelu_backward_of_cdf<V>(z, p.grad + r * p.ldg, y, p.n);
  }
}

template <class V>
void activation_backward(const ActivationBackwardArgs& p) {
  using f32 = typename V::f32;
  if (p.grad == nullptr) {
    for (int64_t r = 0; r < p.rows; r++) {
      float* y = p.y + r * p.ldy;
      if (y != p.z + r * p.ldz) __builtin_memcpy(y, p.z + r * p.ldz, static_cast<size_t>(p.n) * sizeof(float));
      activate<V, Erf>(y, p.ldy, 1, p.n, p.activation);
    }
    return;
  }
  const f32 one = V::set1(1.0f);
  switch (p.activation) {
    case Activation::none:
      return activation_backward_by<V>(p, [&](f32 z, f32& y, f32& slope) SBK_INLINE_LAMBDA { y = z, slope = one; });
    case Activation::gelu:
      return gelu_backward<V>(p);
    case Activation::gelu_tanh:  // y = z s, s = 1 / (1 + exp(-2 u)): y' = s + z s (1 - s) 2 u'
      return activation_backward_by<V>(p, [&](f32 z, f32& y, f32& slope) SBK_INLINE_LAMBDA {
        const f32 z2 = V::mul(z, z), two_root = V::set1(two_root_two_over_pi);
        const f32 two_u = V::mul(V::mul(z, two_root), V::fma(z2, V::set1(gelu_tanh_cubic), one));
        const f32 s = V::div(one, V::add(one, vexp<V>(V::sub(V::zero(), two_u))));
        const f32 two_slope = V::mul(two_root, V::fma(z2, V::set1(gelu_tanh_cubic_slope), one));
        y = V::mul(z, s), slope = V::fma(V::mul(y, V::sub(one, s)), two_slope, s);
      });
    case Activation::relu:
      return activation_backward_by<V>(p, [&](f32 z, f32& y, f32& slope) SBK_INLINE_LAMBDA {
        y = relu<V>(z), slope = V::zero_if_less(one, z, V::set1(1.17549435e-38f));  // denormals count as 0
      });
  }
}

// With normal = (x - mean) rstd and g = grad gamma: dx = rstd (g - mean(g) - normal mean(g normal)).
template <class V>
void layer_norm_backward(const LayerNormBackwardArgs& p) {
  using f32 = typename V::f32;
  const float inverse_n = 1.0f / static_cast<float>(p.n);
  for (int64_t r = 0; r < p.rows; r++) {
    const float *x = p.x + r * p.ldx, *grad = p.grad + r * p.ldg;
    float* dx = p.dx + r * p.lddx;
    const RowMoments<V> row(x, p.n, p.eps);
    f32 sum = V::zero(), product = V::zero();
    float rest_sum = 0.0f, rest_product = 0.0f;
    int64_t c = 0;
    for (; c + V::lanes <= p.n; c += V::lanes) {
      const f32 upstream = V::load(grad + c), normal = row.normal(V::load(x + c));
      const f32 g = V::mul(upstream, V::load(p.gamma + c));
      sum = V::add(sum, g), product = V::fma(g, normal, product);
      V::store(p.dgamma + c, V::fma(upstream, normal, V::load(p.dgamma + c)));
      V::store(p.dbeta + c, V::add(V::load(p.dbeta + c), upstream));
    }
    for (; c < p.n; c++) {
      const float normal = row.normal(x[c]), g = grad[c] * p.gamma[c];
      rest_sum += g, rest_product += g * normal;
      p.dgamma[c] += grad[c] * normal, p.dbeta[c] += grad[c];
    }
    const float mean_g = inverse_n * (V::reduce_add(sum) + rest_sum);
    const float mean_product = inverse_n * (V::reduce_add(product) + rest_product);
    const f32 vmean = V::set1(mean_g), vproduct = V::set1(mean_product), rstd = V::set1(row.rstd);
    for (c = 0; c + V::lanes <= p.n; c += V::lanes) {
      const f32 g = V::mul(V::load(grad + c), V::load(p.gamma + c)), normal = row.normal(V::load(x + c));
      V::store(dx + c, V::mul(rstd, V::sub(V::sub(g, vmean), V::mul(normal, vproduct))));
    }
    for (; c < p.n; c++) {
      dx[c] = row.rstd * (grad[c] * p.gamma[c] - mean_g - row.normal(x[c]) * mean_product);
    }
  }
}

template <class V>
void sum_rows(const SumRowsArgs& p) {
  using f32 = typename V::f32;
  for (int64_t r = 0; r < p.rows; r++) {
    const float sum = sum_row<V>(
        p.x + r * p.ldx, p.n, [](f32 s, f32 v) SBK_INLINE_LAMBDA { return V::add(s, v); },
        [](float v) SBK_INLINE_LAMBDA { return v; });
    p.y[r] = p.accumulate ? p.y[r] + sum : sum;
  }
}

}  // namespace
}  // namespace sbk
