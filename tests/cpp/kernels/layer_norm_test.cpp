// KernelTable::layer_norm against the oracle.
#include <cmath>
#include <limits>
#include <vector>

#include "support/check.h"
#include "support/guarded.h"
#include "support/reference.h"
#include "support/shapes.h"

namespace {

using namespace test;

// Runs the kernel on x, out of place or in place, and compares.
void run(const sbk::KernelTable& table, Matrix& x, float eps, bool in_place, Flush flush) {
  const int64_t rows = x.rows(), n = x.cols();
  Random random(static_cast<uint64_t>(n));
  Matrix gamma(1, n, n, flush), beta(1, n, n, flush), other(rows, n, n + 5, flush);
  gamma.fill(random, 2).freeze(), beta.fill(random).freeze();
  const Reals want = layer_norm(Reals(x), gamma.data(), beta.data(), eps, table.lanes);
  Matrix& y = in_place ? x : other;
  if (!in_place) x.freeze();
  table.layer_norm({.x = x.data(),
                    .ldx = x.stride(),
                    .gamma = gamma.data(),
                    .beta = beta.data(),
                    .y = y.data(),
                    .ldy = y.stride(),
                    .rows = rows,
                    .n = n,
                    .eps = eps});
  check_close(y, want);
}

// Around vectors and around the four running sums of four vectors.
std::vector<int64_t> channel_sizes(const sbk::KernelTable& t) {
  std::vector<int64_t> v{1, 2, 3, 32, 192, 384, 768};
  for (const int64_t vectors : {1, 2, 3, 4, 5, 8, 9}) {
    for (int64_t n = -1; n <= 1; n++) v.push_back(vectors * t.lanes + n);
  }
  return sizes(v);
}

TEST(remainders_and_strides) {
  for (const int64_t n : channel_sizes(table)) {
    for (const int64_t rows : {0, 1, 2, 5}) {
      for (const int64_t gap : {0, 3}) {
        for (const bool in_place : {false, true}) {
          for (const Flush flush : kBothEnds) {
            const Context where([&] {
              return text("rows=", rows, " n=", n, " gap=", gap, " in_place=", in_place,
                          " flush=", static_cast<int>(flush));
            });
            Random random(static_cast<uint64_t>(n * 10 + rows));
            Matrix x(rows, n, n + gap, flush);
            x.fill(random, 3);
            run(table, x, 1e-12f, in_place, flush);
          }
        }
      }
    }
  }
}

// (x - mean) is 0: the result is beta, whatever the value and however small eps.
TEST(constant_rows_give_beta) {
  for (const int64_t n : channel_sizes(table)) {
    for (const float value : {0.0f, 1.0f, 0.1f, -3.3f, 1e4f, 1e-20f, 3e18f}) {
      const Context where([&] { return text("n=", n, " value=", value); });
      Matrix x(2, n, n, Flush::end);
      for (int64_t c = 0; c < n; c++) x.at(0, c) = value, x.at(1, c) = -value;
      std::vector<float> gamma(n, 1.0f), beta(n), y(2 * n);
      for (int64_t c = 0; c < n; c++) beta[c] = 0.25f * static_cast<float>(c % 7);
      // Where the mean is right to second order (reference.h), what is left of a constant is of second order, too.
      const double left = std::fabs(value) * std::pow(sum_error(n, table.lanes), 2);
      for (const float eps : {1e-12f, 1e-5f}) {
        table.layer_norm({x.data(), n, gamma.data(), beta.data(), y.data(), n, 2, n, eps});
        for (int64_t i = 0; i < 2 * n; i++) {
          const double error = std::fabs(static_cast<double>(y[i]) - beta[i % n]);
          // Never more than 1: the deviations are divided by their own root mean square.
          check(error <= std::min(1.0, left / std::sqrt(eps)) + 4 * kUnit, __FILE__, __LINE__,
                [&] { return text("element ", i, " is ", y[i], ", should be ", beta[i % n], ", eps=", eps); });
        }
      }
    }
  }
}

TEST(offsets_far_beyond_the_spread) {
  for (const int64_t n : {192, 768, 100}) {
    for (const float offset : {100.0f, 1e4f, -1e5f}) {
      for (const Flush flush : kBothEnds) {
        const Context where([&] { return text("n=", n, " offset=", offset); });
        Random random(3);
        Matrix x(3, n, n, flush);
        x.fill(random);
        for (int64_t r = 0; r < 3; r++) {
          for (int64_t c = 0; c < n; c++) x.at(r, c) += offset;
        }
        run(table, x, 1e-12f, false, flush);
      }
    }
  }
}

TEST(tiny_and_large_values) {
  for (const float scale : {1e-6f, 1e-3f, 1e3f, 1e15f}) {
    const Context where([&] { return text("scale=", scale); });
    Random random(4);
    Matrix x(4, 131, 131, Flush::end);
    x.fill(random, scale);
    run(table, x, 1e-12f, false, Flush::end);
  }
}

TEST(special_values_poison_exactly_their_row) {
  const int64_t rows = 4, n = 5 * table.lanes + 2;
  for (const float value : {std::numeric_limits<float>::quiet_NaN(), INFINITY, -INFINITY}) {
    for (int64_t c = 0; c < n; c++) {
      const Context where([&] { return text("value=", value, " column ", c); });
      Random random(5);
      Matrix x(rows, n, n, Flush::end);
      x.fill(random);
      x.at(2, c) = value;
      run(table, x, 1e-5f, c % 2 == 0, Flush::end);
    }
  }
}

}  // namespace
