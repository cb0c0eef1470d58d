// The oracle: every operation written in the simplest way in float64, and with every value a bound of the error that
// float32 arithmetic may make in it. Bounds come from the number of roundings (Higham, Accuracy and Stability of
// Numerical Algorithms, chapter 3): a sum of k products is off by at most (k + 1) u sum |x w|, with u = 2^-24. The
// errors of inputs are carried through, so that a chain of operations has a bound, too.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "check.h"
#include "guarded.h"
#include "kernels/table.h"

namespace test {

inline constexpr double kUnit = 0x1p-24;       // half an ulp of 1: the largest relative error of one rounding
inline constexpr double kTiny = 0x1p-126;      // the smallest normal float: results below may be flushed to 0
inline constexpr double kSmallest = 0x1p-149;  // the smallest denormal
inline constexpr double kExpError = 2;         // of exp, in units: 1 ulp, as kernels/math.h promises
inline constexpr double kErfError = 8;         // of erf, in units: "a few ulp"
inline constexpr double kSqrt2 = 1.4142135623730950488, kPi = 3.14159265358979323846;

struct Real {
  double value = 0, error = 0;
};

// [rows][cols] values, dense.
class Reals {
 public:
  Reals(int64_t rows, int64_t cols) : rows_(rows), cols_(cols), data_(rows * cols) {}
  explicit Reals(const Matrix& m) : Reals(m.rows(), m.cols()) {
    for (int64_t r = 0; r < rows_; r++) {
      for (int64_t c = 0; c < cols_; c++) at(r, c).value = m.at(r, c);
    }
  }
  Real& at(int64_t r, int64_t c) { return data_[r * cols_ + c]; }
  const Real& at(int64_t r, int64_t c) const { return data_[r * cols_ + c]; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }

  Reals columns(int64_t first, int64_t count) const { return part(0, rows_, first, count); }
  Reals part(int64_t first_row, int64_t row_count, int64_t first, int64_t count) const {
    Reals result(row_count, count);
    for (int64_t r = 0; r < row_count; r++) {
      for (int64_t c = 0; c < count; c++) result.at(r, c) = at(first_row + r, first + c);
    }
    return result;
  }
  void put(int64_t first_row, int64_t first, const Reals& part) {
    for (int64_t r = 0; r < part.rows(); r++) {
      for (int64_t c = 0; c < part.cols(); c++) at(first_row + r, first + c) = part.at(r, c);
    }
  }

 private:
  int64_t rows_, cols_;
  std::vector<Real> data_;
};

// Of Phi in GELU: half of erf's error and one rounding. Where sums are fp16, what table.h says.
constexpr double kPhiError = (kErfError / 2 + 1) * kUnit, kPhiErrorOfHalves = 2.1e-5;

inline Real activate(Real in, sbk::Activation activation, double phi_error = kPhiError) {
  const double x = in.value, size = std::fabs(x);
  double y = x, error = 0, slope = 1;  // the steepest GELU anywhere is 1.13
  switch (activation) {
    case sbk::Activation::none:
      break;
    case sbk::Activation::relu:
      y = x < 0 ? 0 : x;
      break;
    case sbk::Activation::gelu: {
      // x (1 + erf) / 2, and one rounding in the product.
      const double phi = 0.5 * std::erfc(-x / kSqrt2);
      y = x * phi;
      error = size * phi_error + kUnit * std::fabs(y);
      slope = 1.13;
      break;
    }
    case sbk::Activation::gelu_tanh: {
      // x / (1 + exp(m)): m takes 4 roundings and its constants 2, exp scales their error by |m|; then a sum and a
      // quotient.
      const double m = -2 * std::sqrt(2 / kPi) * (x + 0.044715 * x * x * x);
      // Written like this because inf * 0 must stay NaN at -inf, as in torch.
      y = x / (1 + std::exp(m));
      const double share = m > 0 ? 1 : std::exp(m);
      error = std::fabs(y) * ((6 * std::fabs(m) + kExpError) * share + 2) * kUnit + size * 4 * kTiny;
      slope = 1.13;
      break;
    }
  }
  // A product among denormals is rounded to a multiple of the smallest of them.
  return {y, error + slope * in.error + (activation == sbk::Activation::none ? 0 : kSmallest)};
}

// y[r][c] = activation(bias[c] + sum_k x[r][group(c) * k + i] w[c][i] + residual[r][c]); w is [n][k].
struct ConvReference {
  const float* w;
  int64_t n, k, groups;
  const float* bias;  // or null
  sbk::Activation activation = sbk::Activation::none;

  Reals operator()(const Reals& x, const Reals* residual = nullptr) const {
    Reals y(x.rows(), n);
    for (int64_t r = 0; r < x.rows(); r++) {
      for (int64_t c = 0; c < n; c++) {
        const int64_t first = c / (n / groups) * k;
        double sum = bias ? bias[c] : 0.0, size = std::fabs(sum), carried = 0;
        for (int64_t i = 0; i < k; i++) {
          const Real& a = x.at(r, first + i);
          sum += a.value * w[c * k + i];
          size += std::fabs(a.value * w[c * k + i]);
          carried += a.error * std::fabs(w[c * k + i]);
        }
        if (residual) {
          sum += residual->at(r, c).value;
          size += std::fabs(residual->at(r, c).value);
          carried += residual->at(r, c).error;
        }
        // k products, k + 2 sums; products of denormals lose up to the smallest float each.
        const double rounding = static_cast<double>(k + 3) * (kUnit * (size + carried) + kSmallest);
        y.at(r, c) = activate({sum, std::isfinite(sum) ? carried + rounding : 0}, activation);
      }
    }
    return y;
  }
};

// The relative error of a sum over n channels, by the longest chain of additions that a value goes through: four
// running sums of `lanes` each, then those (kernels/rowwise.h).
inline double sum_error(int64_t n, int64_t lanes) {
  return static_cast<double>(n / (4 * lanes) + 2 * lanes + 6) * kUnit;
}

// LayerNorm. An error of the mean must be of second order: with eps = 1e-12, one of first order makes a row of equal
// values anything but beta.
inline Reals layer_norm(const Reals& x, const float* gamma, const float* beta, double eps, int64_t lanes) {
  const int64_t n = x.cols();
  const double relative = sum_error(n, lanes);
  Reals y(x.rows(), n);
  for (int64_t r = 0; r < x.rows(); r++) {
    double mean = 0, size = 0, carried = 0;
    for (int64_t c = 0; c < n; c++) {
      mean += x.at(r, c).value / static_cast<double>(n);
      size += std::fabs(x.at(r, c).value) / static_cast<double>(n);
      carried += x.at(r, c).error / static_cast<double>(n);
    }
    double variance = 0, spread = 0, variance_error = 0;
    for (int64_t c = 0; c < n; c++) {
      const double d = x.at(r, c).value - mean;
      variance += d * d / static_cast<double>(n);
      spread += std::fabs(d) / static_cast<double>(n);
    }
    const double mean_error = carried + relative * (spread + relative * size);
    const auto deviation_error = [&](int64_t c) {
      return x.at(r, c).error + mean_error + 3 * kUnit * std::fabs(x.at(r, c).value - mean);
    };
    for (int64_t c = 0; c < n; c++) {
      const double d = std::fabs(x.at(r, c).value - mean), e = deviation_error(c);
      variance_error += (2 * d * e + e * e) / static_cast<double>(n);
    }
    variance_error += 2 * relative * (variance + variance_error) + relative * relative * relative * size * size;
    const double rstd = 1 / std::sqrt(variance + eps);
    const double highest = 1 / std::sqrt(std::max(variance - variance_error, 0.0) + eps);
    const double rstd_error = (highest - rstd) + 4 * kUnit * highest;
    for (int64_t c = 0; c < n; c++) {
      const double d = x.at(r, c).value - mean, product = d * rstd * gamma[c], value = product + beta[c];
      const double error = std::fabs(gamma[c]) * (deviation_error(c) * highest + std::fabs(d) * rstd_error) +
                           3 * kUnit * std::fabs(product) + kUnit * std::fabs(value);
      y.at(r, c) = {value, error};
    }
  }
  return y;
}

// One head: softmax(scale q k^T + mask) v. mask(r, j) is added; it may be -inf.
template <class Mask>
Reals attention(const Reals& q, const Reals& k, const Reals& v, double scale, const Mask& mask) {
  const int64_t keys = k.rows(), d = q.cols();
  Reals context(q.rows(), v.cols());
  std::vector<Real> score(keys);
  for (int64_t r = 0; r < q.rows(); r++) {
    double highest = -INFINITY;
    for (int64_t j = 0; j < keys; j++) {
      double sum = 0, size = 0, carried = 0;
      for (int64_t i = 0; i < d; i++) {
        const Real &a = q.at(r, i), &b = k.at(j, i);
        sum += a.value * b.value;
        size += std::fabs(a.value * b.value);
        carried += a.error * std::fabs(b.value) + std::fabs(a.value) * b.error + a.error * b.error;
      }
      const double value = scale * sum + mask(r, j);
      // d products and sums, the scale and its product, the mask.
      score[j] = {value, scale * (carried + static_cast<double>(d + 4) * kUnit * (size + carried)) +
                             kUnit * (std::fabs(value) + std::fabs(scale * sum))};
      highest = std::max(highest, value);
    }
    // exp(score - highest) with its relative error; one correction for every block of keys (kernels/attention.h has
    // 512).
    const double blocks = static_cast<double>(keys / 512 + 1);
    const double chain = (static_cast<double>(keys) + 2 * blocks + 4) * kUnit;
    double total = 0, total_error = 0;
    for (int64_t j = 0; j < keys; j++) {
      const double distance = highest - score[j].value;
      const double e = std::exp(-distance);
      const double relative = std::expm1(score[j].error + kUnit * distance) + (kExpError + 1) * blocks * kUnit;
      score[j] = e == 0 ? Real{0, 2 * kTiny} : Real{e, e * relative + 2 * kTiny};
      total += e;
      total_error += score[j].error + chain * e;
    }
    for (int64_t c = 0; c < v.cols(); c++) {
      double sum = 0, error = 0;
      for (int64_t j = 0; j < keys; j++) {
        const double size = std::fabs(v.at(j, c).value), carried = v.at(j, c).error;
        sum += score[j].value * v.at(j, c).value;
        error += score[j].error * (size + carried) + score[j].value * (carried + chain * (size + carried));
      }
      const double value = sum / total;
      context.at(r, c) = {
          value, (error + std::fabs(value) * total_error) / (total - total_error) + 2 * kUnit * std::fabs(value)};
    }
  }
  return context;
}

// Whether `got` is the float that `want` describes: NaN for NaN, the same infinity, or within the bound.
inline bool is_close(float got, const Real& want) {
  if (std::isnan(want.value)) return std::isnan(got);
  if (std::isinf(want.value)) return static_cast<double>(got) == want.value;
  const double error = std::fabs(static_cast<double>(got) - want.value);
  if (want.error > 0 && error <= want.error) state().worst = std::max(state().worst, error / want.error);
  return error <= want.error;
}

// Compares a matrix and reports its first difference only. A bound of more than 5 % would prove nothing: that fails,
// too.
inline void check_close(const float* got, int64_t stride, const Reals& want) {
  for (int64_t r = 0; r < want.rows(); r++) {
    for (int64_t c = 0; c < want.cols(); c++) {
      const Real& w = want.at(r, c);
      const float g = got[r * stride + c];
      const bool close = is_close(g, w);
      const bool useful = !std::isfinite(w.value) || w.error <= 0.05 * (1 + std::fabs(w.value));
      if (close && useful) continue;
      check(false, __FILE__, __LINE__, [&] {
        return text("element [", r, "][", c, "] of [", want.rows(), "][", want.cols(), "] is ", g, ", should be ",
                    w.value, " within ", w.error, close ? ": a tolerance too wide to prove anything" : "");
      });
      return;
    }
  }
  state().checks++;
}

inline void check_close(const Matrix& got, const Reals& want) {
  check_close(got.data(), got.stride(), want);
  CHECK(got.gaps_untouched());
}

}  // namespace test
