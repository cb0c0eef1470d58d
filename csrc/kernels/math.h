// Vector exp, erf and the activations in fp32.
#pragma once
#include "kernels/table.h"
#include "kernels/unroll.h"

namespace sbk {
namespace {

// The coefficients of Exp, Erf and ErfOfHalves: scripts/fit_polynomials.py fits them again. The errors beside them are
// those of the coefficients as they stand here, before the kernels round each step; tests/project/test_polynomials.py
// checks them.

// exp(r) = 1 + r + r^2 (c[0] + c[1] r + ... + c[4] r^4) on |r| <= ln2 / 2.
struct Exp {  // relative error 2.1e-8: the fit had 1.00000004 r, which float rounds to r
  static constexpr float c[] = {0.5f, 0.166664145f, 0.0416663516f, 0.00837521020f, 0.00139412131f};
};

// ln2 in two parts; the first has few enough bits for n times it to be exact.
constexpr float log2_of_e = 1.44269504f, upper_ln2 = 0.693145752f, lower_ln2 = 1.42860677e-6f;

// exp(x) for any x: 0 below -87.3 (no denormals), inf above 88.4, NaN for NaN; 1 ulp in between. x = n ln2 + r.
// `never_positive`: x is <= 0, which saves an instruction and a constant.
template <class V, bool never_positive = false>
SBK_INLINE typename V::f32 vexp(typename V::f32 x) {
  using f32 = typename V::f32;
  const f32 lowest = V::set1(-87.3f);
  f32 clamped = V::max(lowest, x);
  if constexpr (!never_positive) clamped = V::min(V::set1(89.0f), clamped);
  // An addend of 1.5 2^23 rounds to integers; with 127 more, the low bits of the sum are the exponent field of 2^n.
  const f32 magic = V::set1(12582912.0f + 127.0f), shifted = V::fma(clamped, V::set1(log2_of_e), magic);
  const f32 n = V::sub(shifted, magic);
  f32 r = V::fma(n, V::set1(-upper_ln2), clamped);
  r = V::fma(n, V::set1(-lower_ln2), r);
  // 1 + (r + r^2 (c0 + c1 r + r^2 (c2 + c3 r + c4 r^2))): in Horner's scheme every constant is an addend, which some
  // instructions overwrite.
  const f32 r2 = V::mul(r, r);
  f32 p = V::fma(r2, V::set1(Exp::c[4]), V::fma(r, V::set1(Exp::c[3]), V::set1(Exp::c[2])));
  p = V::fma(r2, p, V::fma(r, V::set1(Exp::c[1]), V::set1(Exp::c[0])));
  p = V::add(V::fma(r2, p, r), V::set1(1.0f));
  return V::zero_if_less(V::mul(p, V::low_bits_as_exponent(shifted)), x, lowest);
}

// erf(x / sqrt 2) / 2 = x P(x^2) / Q(x^2) on |x| <= limit: `above` is P, `below` is Q. Beyond, erf counts as +-1.
// The script says why the limits are what they are.
struct Erf {  // relative error 4.7e-8; 2.5e-8 before `above` was rounded
  static constexpr float limit = 5.65685425f;
  static constexpr float above[] = {0.398942262f,    0.0342039056f,   0.0046927901f,
                                    0.000171495587f, 6.28547787e-06f, 2.19484821e-08f};
  static constexpr float below[] = {1.0f, 0.252402753f, 0.0288311895f, 0.00190020306f, 7.40487594e-5f, 1.16911099e-6f};
};
struct ErfOfHalves {  // error 2.1e-5, a tenth of what |x| has lost where it is a sum in fp16
  static constexpr float limit = 4.15f;
  static constexpr float above[] = {0.3988479f, 0.035575394f, 0.0026994727f};
  static constexpr float below[] = {1.0f, 0.25502098f, 0.02506044f, 0.00043396206f};
};

// c[0] + c[1] u + ...
template <class V, size_t N>
SBK_INLINE typename V::f32 polynomial(typename V::f32 u, const float (&c)[N]) {
  using f32 = typename V::f32;
  constexpr int degree = N - 1;
  if constexpr (V::fma_overwrites_addend) {
    // By powers: in Horner's scheme every constant is an addend, and needs a copy. As exact where all terms are
    // positive.
    f32 powers[degree + 1] = {V::zero(), u};
    unroll<degree - 1>(
        [&](auto i) SBK_INLINE_LAMBDA { powers[i + 2] = V::mul(powers[(i + 2) / 2], powers[(i + 2) - (i + 2) / 2]); });
    f32 p = V::set1(c[0]);
    unroll<degree>([&](auto i) SBK_INLINE_LAMBDA { p = V::fma(powers[i + 1], V::set1(c[i + 1]), p); });
    return p;
  } else {
    f32 p = V::set1(c[degree]);
    unroll<degree>([&](auto i) SBK_INLINE_LAMBDA { p = V::fma(p, u, V::set1(c[degree - 1 - i])); });
    return p;
  }
}

// Phi(x) = (1 + erf(x / sqrt 2)) / 2.
template <class V, class Fit>
SBK_INLINE typename V::f32 normal_cdf(typename V::f32 x) {
  using f32 = typename V::f32;
  const f32 limit = V::set1(Fit::limit);
  const f32 clamped = V::min(limit, V::max(V::sub(V::zero(), limit), x));
  const f32 u = V::mul(clamped, clamped);
  const f32 half_erf = V::div(V::mul(clamped, polynomial<V>(u, Fit::above)), polynomial<V>(u, Fit::below));
  return V::zero_if_less(V::add(half_erf, V::set1(0.5f)), x, V::sub(V::zero(), limit));
}

// x Phi(x), the exact GELU (Hendrycks & Gimpel, arXiv 1606.08415).
template <class V, class Fit = Erf>
SBK_INLINE typename V::f32 gelu(typename V::f32 x) {
  return V::mul(x, normal_cdf<V, Fit>(x));
}

// x / 2 (1 + tanh(y)) = x / (1 + exp(-2 y)),  y = sqrt(2 / pi) (x + 0.044715 x^3).
constexpr float two_root_two_over_pi = 1.59576912f, gelu_tanh_cubic = 0.044715f;
constexpr float gelu_tanh_cubic_slope = 0.134145f;  // 3 * 0.044715, rounded once

template <class V>
SBK_INLINE typename V::f32 gelu_tanh(typename V::f32 x) {
  using f32 = typename V::f32;
  const f32 inner = V::fma(V::mul(x, x), V::set1(gelu_tanh_cubic), V::set1(1.0f));
  const f32 minus_2y = V::mul(V::mul(x, V::set1(-two_root_two_over_pi)), inner);
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

template <class V, class Fit>
void activate(float* y, int64_t ldy, int64_t rows, int64_t n, Activation activation) {
  using f32 = typename V::f32;
  switch (activation) {
    case Activation::none:
      return;
    case Activation::gelu:
      return for_each_vector<V>(y, ldy, rows, n, [](f32 x) SBK_INLINE_LAMBDA { return gelu<V, Fit>(x); });
    case Activation::gelu_tanh:
      return for_each_vector<V>(y, ldy, rows, n, [](f32 x) SBK_INLINE_LAMBDA { return gelu_tanh<V>(x); });
    case Activation::relu:
      return for_each_vector<V>(y, ldy, rows, n, [](f32 x) SBK_INLINE_LAMBDA { return relu<V>(x); });
  }
}

}  // namespace
}  // namespace sbk
