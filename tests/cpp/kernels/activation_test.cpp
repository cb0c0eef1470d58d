// Accuracy of the activations and of exp over dense sweeps, through the kernels that contain them.
#include <cmath>
#include <limits>
#include <vector>

#include "ops/packed.h"
#include "support/check.h"
#include "support/guarded.h"
#include "support/reference.h"
#include "support/shapes.h"

namespace {

using sbk::Activation;
using namespace test;

// f(x) of a column of numbers: a conv of one input and one output channel with weight 1 passes every x on as it is.
std::vector<float> apply(void (&conv)(const sbk::ConvArgs&), const std::vector<float>& x, Activation activation) {
  // As a row of n columns with bias x and no products, so that whole vectors are used.
  std::vector<float> y(x.size());
  conv({nullptr, 0, nullptr, x.data(), nullptr, 0, y.data(), static_cast<int64_t>(x.size()), 1, 0,
        static_cast<int64_t>(x.size()), activation});
  return y;
}

void sweep(void (&conv)(const sbk::ConvArgs&), Activation activation, const std::vector<float>& x,
           double phi_error = kPhiError) {
  const std::vector<float> y = apply(conv, x, activation);
  for (size_t i = 0; i < x.size(); i++) {
    const Real want = activate({x[i], 0}, activation, phi_error);
    const float got = y[i];
    check(is_close(got, want), __FILE__, __LINE__, [&] {
      return text("activation ", static_cast<int>(activation), " of ", x[i], " is ", got, ", should be ", want.value,
                  " within ", want.error);
    });
  }
}

std::vector<float> steps(double first, double last, int count) {
  std::vector<float> x;
  for (int i = 0; i <= count; i++) x.push_back(static_cast<float>(first + (last - first) * i / count));
  return x;
}

// Both signs of numbers of every size, denormals and the largest included.
std::vector<float> all_magnitudes() {
  std::vector<float> x{0.0f, -0.0f};
  for (int exponent = -149; exponent <= 127; exponent++) {
    for (const double mantissa : {1.0, 1.25, 1.999}) {
      const auto value = static_cast<float>(std::ldexp(mantissa, exponent));
      x.push_back(value), x.push_back(-value);
    }
  }
  return x;
}

constexpr Activation kActivations[] = {Activation::none, Activation::gelu, Activation::gelu_tanh, Activation::relu};

TEST(dense_sweep) {
  for (const Activation a : kActivations) sweep(*table.conv, a, steps(-12, 12, 240000));
}

TEST(around_zero) {
  for (const Activation a : kActivations) sweep(*table.conv, a, steps(-1e-3, 1e-3, 20000));
}

TEST(around_the_end_of_the_polynomial) {
  const double end = 4 * kSqrt2;
  for (const double sign : {-1.0, 1.0})
    sweep(*table.conv, Activation::gelu, steps(sign * (end - 1e-3), sign * (end + 1e-3), 20000));
}

TEST(every_magnitude) {
  for (const Activation a : kActivations) sweep(*table.conv, a, all_magnitudes());
}

TEST(gelu_of_sums_in_halves) {
  if (table.float16.chunk == 0) return;
  for (const std::vector<float>& x : {steps(-12, 12, 240000), steps(-1e-3, 1e-3, 20000), all_magnitudes()}) {
    sweep(*table.float16.conv, Activation::gelu, x, kPhiErrorOfHalves);
  }
}

void check_special_values(void (&conv)(const sbk::ConvArgs&)) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const Activation a : {Activation::gelu, Activation::gelu_tanh}) {
    // As many as fill vectors and a tail, so that both paths are taken.
    for (int repeat = 1; repeat <= 40; repeat += 13) {
      std::vector<float> x;
      for (int i = 0; i < repeat; i++) x.insert(x.end(), {nan, INFINITY, -INFINITY});
      const std::vector<float> y = apply(conv, x, a);
      for (size_t i = 0; i < x.size(); i += 3) {
        CHECK(std::isnan(y[i]));
        CHECK_EQ(y[i + 1], INFINITY);
        CHECK(std::isnan(y[i + 2]));  // -inf * 0
      }
    }
  }
  const std::vector<float> relu = apply(conv, {nan, INFINITY, -INFINITY}, Activation::relu);
  CHECK(std::isnan(relu[0]));
  CHECK_EQ(relu[1], INFINITY);
  CHECK_EQ(relu[2], 0.0f);
}

TEST(special_values_as_in_torch) {
  check_special_values(*table.conv);
  check_special_values(*table.float16.conv);
}

// exp alone: with scores 0 and s (as mask), and values 0 and 1, attention is exp(s) / (1 + exp(s)).
TEST(exp_in_ulps) {
  std::vector<float> s = steps(-100, 0, 400000);
  for (const float extra : {-87.29f, -87.3f, -87.31f, -104.0f, -1e10f, -3.4e38f}) s.push_back(extra);
  for (const float tiny : all_magnitudes()) {
    if (tiny <= 0) s.push_back(tiny);
  }
  const auto rows = static_cast<int64_t>(s.size()), lanes = int64_t{table.lanes};
  std::vector<float> mask(2 * rows), zeros(rows), keys(lanes + 2), context(rows),
      scratch(table.attention_scratch(2, 1) + 16);
  for (int64_t r = 0; r < rows; r++) mask[2 * r + 1] = s[r];
  std::vector<float> values(2 * lanes);
  values[lanes] = 1;
  auto* aligned = reinterpret_cast<float*>(round_up(reinterpret_cast<int64_t>(scratch.data()), 64));
  table.attention({zeros.data(), 1, keys.data(), lanes + 2, values.data(), lanes, mask.data(), 2, context.data(), 1,
                   aligned, rows, 2, 1, 1.0f});
  for (int64_t r = 0; r < rows; r++) {
    const double e = std::exp(static_cast<double>(s[r])), want = e / (1 + e);
    // exp, the sum and the quotient are rounded; behind -87.3 exp may be 0.
    const Real bound{want, want * (kExpError + 2) * 1.001 * kUnit + (s[r] < -87.25f ? 2 * kTiny : 0)};
    check(is_close(context[r], bound), __FILE__, __LINE__,
          [&] { return text("exp of ", s[r], ": ", context[r], ", should be ", want, " within ", bound.error); });
  }
}

}  // namespace
