// Blocks as they are trained: gradients against differences of the forward passes, and how often dropout drops.
#include <array>
#include <cmath>
#include <functional>
#include <vector>

#include "support/check.h"
#include "support/guarded.h"
#include "support/reference.h"
#include "support/threads.h"
#include "training/trained_blocks.h"

namespace {

using namespace test;

const sbk::Dropout kDropout = {0x123456789abcdef1u, 2, 0x40000000u, 4.0f / 3.0f};

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
