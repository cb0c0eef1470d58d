// The kernels of training against float64.
#include "kernels/table.h"

#include <array>
#include <cmath>

#include "support/check.h"
#include "support/guarded.h"
#include "support/reference.h"

namespace {

using namespace test;

// Philox4x32-10 as its paper has it.
std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; round++) {
    const uint64_t a = uint64_t{0xd2511f53u} * counter[0], b = uint64_t{0xcd9e8d57u} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    key = {key[0] + 0x9e3779b9u, key[1] + 0xbb67ae85u};
  }
  return counter;
}

double factor(const sbk::Dropout& d, int64_t row, int64_t column) {
  const auto words = philox({static_cast<uint32_t>(column / 64 * 16 + column % 16), static_cast<uint32_t>(row),
                             static_cast<uint32_t>(static_cast<uint64_t>(row) >> 32), d.site},
                            {static_cast<uint32_t>(d.seed), static_cast<uint32_t>(d.seed >> 32)});
  return words[column / 16 % 4] >= d.threshold ? d.scale : 0.0;
}

const sbk::Dropout kDropout = {0x123456789abcdef1u, 2, 0x40000000u, 4.0f / 3.0f};

TEST(generator_is_philox) {
  // The known answers of the authors' library.
  CHECK((philox({0, 0, 0, 0}, {0, 0}) == std::array<uint32_t, 4>{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}));
  constexpr uint32_t ones = 0xffffffffu;
  CHECK((philox({ones, ones, ones, ones}, {ones, ones}) ==
         std::array<uint32_t, 4>{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}));
}

TEST(dropout) {
  for (const int64_t n : {1, 15, 16, 17, 63, 64, 65, 200}) {
    for (const int64_t first_row : {int64_t{0}, int64_t{1} << 33}) {
      for (const bool has_residual : {false, true}) {
        const Context where([&] { return text("n=", n, " first_row=", first_row, " residual=", has_residual); });
        constexpr int64_t rows = 3;
        Random random(7);
        Matrix x(rows, n, n + 3, Flush::end), residual(rows, n, n + 1, Flush::end), y(rows, n, n + 2, Flush::end);
        x.fill(random).freeze(), residual.fill(random).freeze();
        table.training.dropout({x.data(), x.stride(), has_residual ? residual.data() : nullptr, residual.stride(),
                                y.data(), y.stride(), rows, n, first_row, kDropout});
        Reals want(rows, n);
        for (int64_t r = 0; r < rows; r++) {
          for (int64_t c = 0; c < n; c++) {
            const double value = x.at(r, c) * factor(kDropout, first_row + r, c), rest = residual.at(r, c);
            want.at(r, c) = {has_residual ? value + rest : value, 2 * kUnit * (std::fabs(value) + std::fabs(rest))};
          }
        }
        check_close(y, want);
      }
    }
  }
}

TEST(activation_backward) {
  const auto derivative = [](double z, sbk::Activation kind) {
    switch (kind) {
      case sbk::Activation::none:
        return 1.0;
      case sbk::Activation::relu:
        return z > 0 ? 1.0 : 0.0;
      case sbk::Activation::gelu:
        return 0.5 * std::erfc(-z / kSqrt2) + z * std::exp(-z * z / 2) / std::sqrt(2 * kPi);
      default: {
        const double root = std::sqrt(2 / kPi), u = root * (z + 0.044715 * z * z * z), t = std::tanh(u);
        return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * root * (1 + 3 * 0.044715 * z * z);
      }
    }
  };
  for (const auto kind :
       {sbk::Activation::none, sbk::Activation::gelu, sbk::Activation::gelu_tanh, sbk::Activation::relu}) {
    for (const int64_t n : {1, 7, 16, 33, 100}) {
      const Context where([&] { return text("kind=", static_cast<int>(kind), " n=", n); });
      constexpr int64_t rows = 9;
      Random random(3);
      Matrix z(rows, n, n + 2, Flush::end), grad(rows, n, n + 1, Flush::end), y(rows, n, n, Flush::end);
      z.fill(random, 12), grad.fill(random);
      z.at(0, 0) = 0.0f;
      Reals want_grad(rows, n), want(rows, n);
      for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < n; c++) {
          const double slope = derivative(z.at(r, c), kind), size = std::fabs(grad.at(r, c));
          want_grad.at(r, c) = {slope * grad.at(r, c), 64 * kUnit * size * (1 + std::fabs(z.at(r, c)))};
          want.at(r, c) = activate({z.at(r, c), 0}, kind);
          want.at(r, c).error += 8 * kUnit * std::fabs(z.at(r, c));
        }
      }
      z.freeze();
      table.training.activation_backward(
          {z.data(), z.stride(), grad.data(), grad.stride(), y.data(), y.stride(), rows, n, kind});
      check_close(grad, want_grad), check_close(y, want);
      table.training.activation_backward({z.data(), z.stride(), nullptr, 0, y.data(), y.stride(), rows, n, kind});
      check_close(y, want);
    }
  }
}

TEST(layer_norm_backward) {
  for (const int64_t n : {1, 3, 16, 17, 64, 100, 768}) {
    const Context where([&] { return text("n=", n); });
    constexpr int64_t rows = 5;
    constexpr float eps = 1e-5f;
    Random random(5);
    Matrix x(rows, n, n + 1, Flush::end), grad(rows, n, n, Flush::end), gamma(1, n, n, Flush::end);
    Matrix dx(rows, n, n + 3, Flush::end), dgamma(1, n, n, Flush::end), dbeta(1, n, n, Flush::end);
    x.fill(random, 3).freeze(), grad.fill(random).freeze(), gamma.fill(random, 2).freeze();
    Reals want(rows, n), want_gamma(1, n), want_beta(1, n);
    for (int64_t c = 0; c < n; c++) {
      dgamma.at(0, c) = 1.0f, dbeta.at(0, c) = -1.0f;  // sums are added
      want_gamma.at(0, c).value = 1.0, want_beta.at(0, c).value = -1.0;
    }
    for (int64_t r = 0; r < rows; r++) {
      double mean = 0, variance = 0, mean_g = 0, product = 0;
      for (int64_t c = 0; c < n; c++) mean += x.at(r, c) / static_cast<double>(n);
      for (int64_t c = 0; c < n; c++) variance += std::pow(x.at(r, c) - mean, 2) / static_cast<double>(n);
      const double rstd = 1 / std::sqrt(variance + eps);
      const auto normal = [&](int64_t c) { return (x.at(r, c) - mean) * rstd; };
      for (int64_t c = 0; c < n; c++) {
        const double g = double{grad.at(r, c)} * gamma.at(0, c);
        mean_g += g / static_cast<double>(n), product += g * normal(c) / static_cast<double>(n);
        want_gamma.at(0, c).value += grad.at(r, c) * normal(c), want_beta.at(0, c).value += grad.at(r, c);
      }
      for (int64_t c = 0; c < n; c++) {
        const double tolerance = (200 + static_cast<double>(n)) * kUnit;
        want.at(r, c) = {rstd * (double{grad.at(r, c)} * gamma.at(0, c) - mean_g - normal(c) * product),
                         tolerance * rstd * 8};
        want_gamma.at(0, c).error = want_beta.at(0, c).error = tolerance * 16;
      }
    }
    table.training.layer_norm_backward({x.data(), x.stride(), gamma.data(), grad.data(), grad.stride(), dx.data(),
                                        dx.stride(), dgamma.data(), dbeta.data(), rows, n, eps});
    check_close(dx, want), check_close(dgamma, want_gamma), check_close(dbeta, want_beta);
  }
}

TEST(softmax_and_its_gradient) {
  for (const int64_t keys : {1, 5, 16, 31, 64, 130}) {
    for (const bool has_mask : {false, true}) {
      const Context where([&] { return text("keys=", keys, " mask=", has_mask); });
      constexpr int64_t rows = 4, first_row = 11;
      constexpr float scale = 0.3f;
      const int64_t padded = (keys + table.lanes - 1) / table.lanes * table.lanes, lds = padded + 16;
      Random random(9);
      Matrix scores(rows, keys, lds, Flush::end, padded), dropped(rows, keys, lds, Flush::end, padded);
      Matrix grad(rows, keys, lds, Flush::end, padded);
      Matrix mask(rows, keys, keys, Flush::end);
      scores.fill(random, 20), mask.fill(random, 3).freeze(), grad.fill(random);
      Reals p(rows, keys), want(rows, keys), want_grad(rows, keys);
      for (int64_t r = 0; r < rows; r++) {
        double sum = 0, delta = 0;
        const auto score = [&](int64_t c) { return double{scale} * scores.at(r, c) + (has_mask ? mask.at(r, c) : 0); };
        for (int64_t c = 0; c < keys; c++) sum += std::exp(score(c));
        for (int64_t c = 0; c < keys; c++) {
          const double probability = std::exp(score(c)) / sum, f = factor(kDropout, first_row + r, c);
          p.at(r, c) = {probability, 256 * kUnit * probability};
          want.at(r, c) = {probability * f, 256 * kUnit * probability * 2};
          delta += probability * f * grad.at(r, c);
        }
        for (int64_t c = 0; c < keys; c++) {
          want_grad.at(r, c) = {scale * (want.at(r, c).value * grad.at(r, c) - p.at(r, c).value * delta),
                                1024 * kUnit * scale * p.at(r, c).value * 3};
        }
      }
      table.training.softmax({scores.data(), lds, has_mask ? mask.data() : nullptr, mask.stride(), dropped.data(), rows,
                              keys, first_row, scale, kDropout});
      check_close(scores, p), check_close(dropped, want);
      table.training.softmax_backward({scores.data(), dropped.data(), grad.data(), lds, rows, keys, scale});
      check_close(grad, want_grad);
    }
  }
}

TEST(products_and_sums) {
  for (const int64_t rows : {1, 7, 8, 30}) {
    for (const int64_t k : {0, 1, 5, 48}) {
      for (const int64_t n : {1, 16, 50, 130}) {
        const Context where([&] { return text("rows=", rows, " k=", k, " n=", n); });
        const int64_t padded = (n + table.lanes - 1) / table.lanes * table.lanes;
        Random random(1);
        Matrix a(rows, k, k + 3, Flush::end), b(k, n, padded + 1, Flush::end, padded);
        Matrix c(rows, n, padded, Flush::end, padded), sums(1, rows, rows, Flush::end);
        a.fill(random).freeze(), b.fill(random);
        Reals want(rows, n), want_sums(1, rows);
        for (int64_t r = 0; r < rows; r++) {
          for (int64_t i = 0; i < k; i++) {
            want_sums.at(0, r).value += a.at(r, i), want_sums.at(0, r).error += 64 * kUnit;
            for (int64_t j = 0; j < n; j++) want.at(r, j).value += double{a.at(r, i)} * b.at(i, j);
          }
          for (int64_t j = 0; j < n; j++) want.at(r, j).error = 4 * static_cast<double>(k + 1) * kUnit;
        }
        table.training.gemm({a.data(), a.stride(), b.data(), b.stride(), c.data(), c.stride(), rows, k, n, false});
        check_close(c, want);
        table.training.gemm({a.data(), a.stride(), b.data(), b.stride(), c.data(), c.stride(), rows, k, n, true});
        for (int64_t r = 0; r < rows; r++) {
          for (int64_t j = 0; j < n; j++) want.at(r, j).value *= 2, want.at(r, j).error *= 2;
        }
        check_close(c, want);
        table.training.sum_rows({a.data(), a.stride(), sums.data(), rows, k, false});
        check_close(sums, want_sums);
      }
    }
  }
}

}  // namespace
