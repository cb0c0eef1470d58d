// Vector exp, erf and the activations in fp32.
#pragma once
#include "kernels/table.h"
#include "simd/unroll.h"

namespace sbk {
namespace {

// exp(x) for any x: 0 below -87.3 (no denormals), inf above 88.4, NaN for NaN; 1 ulp in between.
// x = n ln2 + r, exp(r) by a minimax polynomial on |r| <= ln2 / 2 (relative error 2e-9 before rounding).
template <class V>
SBK_INLINE typename V::f32 vexp(typename V::f32 x) {
  using f32 = typename V::f32;
  const f32 lowest = V::set1(-87.3f);
  const f32 clamped = V::min(V::set1(89.0f), V::max(lowest, x));
  const f32 n = V::round(V::mul(clamped, V::set1(1.44269504f)));
  // ln2 in two parts; the first has few enough bits for n times it to be exact.
  f32 r = V::fma(n, V::set1(-0.693145752f), clamped);
  r = V::fma(n, V::set1(-1.42860677e-6f), r);
  f32 p = V::set1(0.00139412131f);
  p = V::fma(p, r, V::set1(0.00837521020f));
  p = V::fma(p, r, V::set1(0.0416663516f));
  p = V::fma(p, r, V::set1(0.166664145f));
  p = V::fma(p, r, V::set1(0.500000005f));
  p = V::fma(p, r, V::set1(1.00000004f));
  p = V::fma(p, r, V::set1(1.0f));
  return V::zero_if_less(V::mul(p, V::pow2(n)), x, lowest);
}

// x Phi(x) = x / 2 (1 + erf(x / sqrt 2)), the exact GELU (Hendrycks & Gimpel, arXiv 1606.08415).
// erf(x / sqrt 2) / 2 = x P(x^2) / Q(x^2), own minimax fit on |x| <= 4 sqrt 2 (relative error 2.6e-8 before rounding);
// erf rounds to +-1 beyond.
template <class V>
SBK_INLINE typename V::f32 gelu(typename V::f32 x) {
  using f32 = typename V::f32;
  const f32 limit = V::set1(5.65685425f);  // 4 sqrt 2
  const f32 clamped = V::min(limit, V::max(V::sub(V::zero(), limit), x));
  const f32 u = V::mul(clamped, clamped);
  constexpr float above[] = {0.398942262f,    0.0342039056f,   0.0046927901f,
                             0.000171495587f, 6.28547787e-06f, 2.19484821e-08f};
  constexpr float below[] = {1.0f, 0.252402753f, 0.0288311895f, 0.00190020306f, 7.40487594e-5f, 1.16911099e-6f};
  f32 p, q;
  if constexpr (V::fma_overwrites_addend) {
    // By powers, which P and Q share: in Horner's scheme every constant is an addend, and needs a copy. All terms are
    // positive, so that this is as exact.
    const f32 u2 = V::mul(u, u), u3 = V::mul(u2, u), u4 = V::mul(u2, u2), u5 = V::mul(u3, u2);
    const f32 powers[] = {u, u2, u3, u4, u5};
    p = V::set1(above[0]), q = V::set1(below[0]);
    unroll<5>([&](auto i) SBK_INLINE_LAMBDA {
      p = V::fma(powers[i], V::set1(above[i + 1]), p), q = V::fma(powers[i], V::set1(below[i + 1]), q);
    });
  } else {
    p = V::set1(above[5]), q = V::set1(below[5]);
    unroll<5>([&](auto i) SBK_INLINE_LAMBDA {
      p = V::fma(p, u, V::set1(above[4 - i])), q = V::fma(q, u, V::set1(below[4 - i]));
    });
  }
  const f32 half_erf = V::div(V::mul(clamped, p), q);
  const f32 phi = V::zero_if_less(V::add(half_erf, V::set1(0.5f)), x, V::sub(V::zero(), limit));
  return V::mul(x, phi);
}

// x / 2 (1 + tanh(y)) = x / (1 + exp(-2 y)),  y = sqrt(2 / pi) (x + 0.044715 x^3).
template <class V>
SBK_INLINE typename V::f32 gelu_tanh(typename V::f32 x) {
  using f32 = typename V::f32;
  const f32 inner = V::fma(V::mul(x, x), V::set1(0.044715f), V::set1(1.0f));
  const f32 minus_2y = V::mul(V::mul(x, V::set1(-1.59576912f)), inner);
  return V::div(x, V::add(V::set1(1.0f), vexp<V>(minus_2y)));
}

template <class V>
SBK_INLINE typename V::f32 relu(typename V::f32 x) {
  return V::max(V::zero(), x);
}

// Applies f to a rows x n block in place. Several vectors at a time: the chains of one hide the latencies of the
// others.
template <class V, class F>
SBK_INLINE void for_each_vector(float* y, int64_t ldy, int64_t rows, int64_t n, F f) {
  constexpr int batch = V::batch;
  for (int64_t r = 0; r < rows; r++, y += ldy) {
    int64_t c = 0;
    for (; c + batch * V::lanes <= n; c += batch * V::lanes) {
      unroll<batch>([&](auto i) SBK_INLINE_LAMBDA {
        float* p = y + c + i * V::lanes;
        V::store(p, f(V::load(p)));
      });
    }
    for (; c + V::lanes <= n; c += V::lanes) V::store(y + c, f(V::load(y + c)));
    if (c < n) V::store_partial(y + c, f(V::load_partial(y + c, n - c)), n - c);
  }
}

template <class V>
void activate(float* y, int64_t ldy, int64_t rows, int64_t n, Activation activation) {
  using f32 = typename V::f32;
  switch (activation) {
    case Activation::none:
      return;
    case Activation::gelu:
      return for_each_vector<V>(y, ldy, rows, n, [](f32 x) SBK_INLINE_LAMBDA { return gelu<V>(x); });
    case Activation::gelu_tanh:
      return for_each_vector<V>(y, ldy, rows, n, [](f32 x) SBK_INLINE_LAMBDA { return gelu_tanh<V>(x); });
    case Activation::relu:
      return for_each_vector<V>(y, ldy, rows, n, [](f32 x) SBK_INLINE_LAMBDA { return relu<V>(x); });
  }
}

}  // namespace
}  // namespace sbk
