// The kernels of training against float64, and the gradients of whole blocks against differences of their forward
// passes.
#include <array>
#include <cmath>
#include <functional>
#include <vector>

#include "support/check.h"
#include "support/guarded.h"
#include "support/reference.h"
#include "support/shapes.h"
#include "support/threads.h"
#include "training/trained_blocks.h"

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

TEST(probabilities_of_dropout) {
  CHECK_EQ(sbk::dropout_of(1, sbk::DropoutSite::post, 0.0).threshold, 0u);
  CHECK_EQ(sbk::dropout_of(1, sbk::DropoutSite::post, 1.0).scale, 0.0f);
  for (const double p : {0.1, 0.5, 0.9}) {
    constexpr int64_t rows = 200, n = 500;
    std::vector<float> factors(rows * n);
    sbk::dropout_factors(table, sbk::serial(), sbk::dropout_of(3, sbk::DropoutSite::output, p), rows, n,
                         factors.data());
    int64_t dropped = 0;
    for (const float f : factors) dropped += f == 0.0f;
    const double share = static_cast<double>(dropped) / (rows * n);
    CHECK(std::fabs(share - p) < 5 * std::sqrt(p * (1 - p) / (rows * n)));
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

// Tensors of a block by name, and its gradients.
struct Tensors {
  std::vector<std::vector<float>> values;

  float* add(int64_t size, Random& random, float scale) {
    values.emplace_back(size);
    for (float& v : values.back()) v = scale * random.uniform();
    return values.back().data();
  }
};

// For every tensor: the gradient along a direction against the difference of `loss` along it.
void check_gradients(Tensors& inputs, const Tensors& gradients, const std::function<double()>& loss) {
  Random random(77);
  for (size_t i = 0; i < inputs.values.size(); i++) {
    const Context where([&] { return text("tensor ", i); });
    const std::vector<float> before = inputs.values[i];
    double slope = 0, size = 0;
    std::vector<float> direction(before.size());
    for (size_t j = 0; j < before.size(); j++) {
      direction[j] = random.uniform();
      slope += double{direction[j]} * gradients.values[i][j];
      size += std::pow(gradients.values[i][j], 2);
    }
    constexpr double step = 0x1p-8;
    const auto moved = [&](double by) {
      for (size_t j = 0; j < before.size(); j++)
        inputs.values[i][j] = static_cast<float>(before[j] + by * direction[j]);
      return loss();
    };
    const double difference = (moved(step) - moved(-step)) / (2 * step);
    inputs.values[i] = before;
    const double error = std::fabs(difference - slope);
    test::check(error < 0.01 * std::sqrt(size) + 2e-3, __FILE__, __LINE__,
                [&] { return text("gradient along a direction ", slope, ", difference ", difference); });
  }
}

constexpr sbk::Dropout kNone = {0, 0, 0, 1.0f};

struct AttentionCase {
  static constexpr int64_t batch = 2, heads = 2;
  int64_t length, n;
  int64_t groups[3];
  Tensors in;
  std::vector<float> q, k, v, context, grad, mask;
  sbk::Dropout dropout;

  AttentionCase(int64_t sequence, int64_t channels, std::array<int64_t, 3> g, const sbk::Dropout& d)
      : length(sequence), n(channels), groups{g[0], g[1], g[2]}, dropout(d) {
    Random random(2);
    const int64_t rows = batch * length;
    in.add(rows * n, random, 1);
    for (int i = 0; i < 3; i++) in.add(n * n / groups[i], random, 0.5f), in.add(n, random, 1);
    for (auto* t : {&q, &k, &v, &context}) t->resize(rows * n);
    mask.resize(batch * length), grad.resize(rows * n);
    for (float& g : grad) g = random.uniform();
    for (float& m : mask) m = random.uniform();
  }
  sbk::TrainedConv conv(int i) const {
    return {in.values[1 + 2 * i].data(), in.values[2 + 2 * i].data(), n, n / groups[i], groups[i]};
  }
  sbk::TrainedAttention attention() const {
    return {conv(0), conv(1), conv(2), heads, batch, length, {mask.data(), {length, 0, 0}}, dropout};
  }
  sbk::AttentionState state() { return {q.data(), k.data(), v.data()}; }
  void forward(const sbk::KernelTable& table, const sbk::Parallel& parallel) {
    sbk::attention_forward(table, parallel, sbk::Compute::float32, attention(), {in.values[0].data(), n}, state(),
                           {context.data(), n});
  }
  Tensors backward(const sbk::KernelTable& table, const sbk::Parallel& parallel) {
    Tensors out = in;
    sbk::ConvGradients gradients[3];
    for (int i = 0; i < 3; i++) gradients[i] = {out.values[1 + 2 * i].data(), out.values[2 + 2 * i].data()};
    sbk::attention_backward(table, parallel, sbk::Compute::float32, attention(), {in.values[0].data(), n}, state(),
                            {grad.data(), n}, gradients, {out.values[0].data(), n});
    return out;
  }
  double loss(const sbk::KernelTable& table) {
    forward(table, sbk::serial());
    double sum = 0;
    for (size_t i = 0; i < grad.size(); i++) sum += double{grad[i]} * context[i];
    return sum;
  }
};

TEST(attention_gradients) {
  for (const sbk::Dropout& dropout : {kNone, kDropout}) {
    for (const int64_t length : {1, 6, 70}) {  // more than a block of queries
      for (const int64_t n : {8, 24}) {
        const Context where([&] { return text("length=", length, " n=", n, " drops=", dropout.threshold != 0); });
        AttentionCase a(length, n, {2, 4, 1}, dropout);
        a.forward(table, sbk::serial());
        const Tensors gradients = a.backward(table, sbk::serial());
        Threads threads(3);
        CHECK(a.backward(table, threads.hook()).values == gradients.values);
        check_gradients(a.in, gradients, [&] { return a.loss(table); });
      }
    }
  }
}

struct PostCase {
  static constexpr int64_t rows = 70, n = 24, wide = 48;
  static constexpr int64_t groups[3] = {2, 4, 3};
  Tensors in;  // context, residual, post weight and bias, its norm, intermediate, output, its norm
  std::vector<float> post_sum, h, z, output_sum, y, grad;
  sbk::Dropout dropout;

  explicit PostCase(const sbk::Dropout& d) : dropout(d) {
    Random random(4);
    in.add(rows * n, random, 1), in.add(rows * n, random, 1);
    in.add(n * n / groups[0], random, 0.5f), in.add(n, random, 1), in.add(n, random, 1), in.add(n, random, 1);
    in.add(wide * n / groups[1], random, 0.5f), in.add(wide, random, 1);
    in.add(n * wide / groups[2], random, 0.5f), in.add(n, random, 1), in.add(n, random, 1), in.add(n, random, 1);
    for (auto* t : {&post_sum, &h, &output_sum, &y, &grad}) t->resize(rows * n);
    z.resize(rows * wide);
    for (float& g : grad) g = random.uniform();
  }
  const float* at(int i) const { return in.values[i].data(); }
  sbk::TrainedPostAttention block() const {
    return {{at(2), at(3), n, n / groups[0], groups[0]},
            {at(6), at(7), wide, n / groups[1], groups[1]},
            {at(8), at(9), n, wide / groups[2], groups[2]},
            {at(4), at(5), 1e-5f},
            {at(10), at(11), 1e-5f},
            sbk::Activation::gelu,
            dropout,
            dropout};
  }
  sbk::PostAttentionState state() { return {post_sum.data(), h.data(), z.data(), output_sum.data()}; }
  void forward(const sbk::KernelTable& table, const sbk::Parallel& parallel) {
    sbk::post_attention_forward(table, parallel, sbk::Compute::float32, block(), {at(0), n}, {at(1), n}, rows, state(),
                                {y.data(), n});
  }
  Tensors backward(const sbk::KernelTable& table, const sbk::Parallel& parallel) {
    Tensors out = in;
    const auto to = [&](int i) { return out.values[i].data(); };
    sbk::post_attention_backward(
        table, parallel, sbk::Compute::float32, block(), {at(0), n}, rows, state(), {grad.data(), n},
        {{to(2), to(3)}, {to(6), to(7)}, {to(8), to(9)}, {to(4), to(5)}, {to(10), to(11)}, {to(1), n}, {to(0), n}});
    return out;
  }
  double loss(const sbk::KernelTable& table) {
    forward(table, sbk::serial());
    double sum = 0;
    for (size_t i = 0; i < grad.size(); i++) sum += double{grad[i]} * y[i];
    return sum;
  }
};

TEST(post_attention_gradients) {
  for (const sbk::Dropout& dropout : {kNone, kDropout}) {
    const Context where([&] { return text("drops=", dropout.threshold != 0); });
    PostCase p(dropout);
    p.forward(table, sbk::serial());
    const Tensors gradients = p.backward(table, sbk::serial());
    Threads threads(3);
    CHECK(p.backward(table, threads.hook()).values == gradients.values);
    check_gradients(p.in, gradients, [&] { return p.loss(table); });
  }
}

// Over more tokens than a chunk has, and with parts of the gradients unwanted.
TEST(conv_gradients) {
  constexpr int64_t rows = 1100, n = 6, channels = 10, groups = 2, k = channels / groups, per_group = n / groups;
  Random random(6);
  Matrix x(rows, channels, channels, Flush::end), grad(rows, n, n, Flush::end), w(n, k, k, Flush::end);
  x.fill(random).freeze(), grad.fill(random).freeze(), w.fill(random).freeze();
  Reals want_dx(rows, channels), want_dw(n, k), want_db(1, n);
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t o = 0; o < n; o++) {
      want_db.at(0, o).value += grad.at(r, o);
      for (int64_t i = 0; i < k; i++) {
        const int64_t channel = o / per_group * k + i;
        want_dx.at(r, channel).value += double{grad.at(r, o)} * w.at(o, i);
        want_dw.at(o, i).value += double{grad.at(r, o)} * x.at(r, channel);
      }
    }
  }
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t c = 0; c < channels; c++) want_dx.at(r, c).error = 16 * kUnit;
  }
  for (int64_t o = 0; o < n; o++) {
    want_db.at(0, o).error = rows * kUnit * 8;
    for (int64_t i = 0; i < k; i++) want_dw.at(o, i).error = rows * kUnit * 8;
  }
  for (int wanted = 0; wanted < 8; wanted++) {
    const Context where([&] { return text("wanted=", wanted); });
    Matrix dx(rows, channels, channels, Flush::end), dw(n, k, k, Flush::end), db(1, n, n, Flush::end);
    const sbk::ConvBackward backward{{w.data(), nullptr, n, k, groups},
                                     {grad.data(), n},
                                     {wanted & 1 ? dw.data() : nullptr, wanted & 2 ? db.data() : nullptr}};
    sbk::conv_backward(table, sbk::serial(), sbk::Compute::float32, &backward, 1, {x.data(), channels}, rows,
                       {wanted & 4 ? dx.data() : nullptr, channels});
    if (wanted & 1) check_close(dw, want_dw);
    if (wanted & 2) check_close(db, want_db);
    if (wanted & 4) check_close(dx, want_dx);
  }
}

}  // namespace
