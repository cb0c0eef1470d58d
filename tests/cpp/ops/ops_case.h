// Weights, calls and the oracle of the ops of ops/ops.h, for ops_test.cpp, ops_threads_test.cpp and
// encoder_layer_test.cpp.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <numeric>
#include <vector>

#include "ops/ops.h"
#include "ops/packed.h"
#include "support/guarded.h"
#include "support/random.h"
#include "support/reference.h"

namespace test {

// `batch` sequences of one length.
struct Uniform {
  std::vector<int64_t> offsets;

  Uniform(int64_t batch, int64_t length) {
    for (int64_t b = 0; b <= batch; b++) offsets.push_back(b * length);
  }
  sbk::Sequences sequences() const { return {static_cast<int64_t>(offsets.size()) - 1, offsets.data()}; }
};

// A grouped conv [n][k] with random weights, in guarded memory that must not be written to.
struct RandomConv {
  int64_t n, k, groups;
  std::vector<float> w;
  std::unique_ptr<Matrix> bias;  // null: none
  std::unique_ptr<Buffer> packed;

  // `heads` as for block_columns(): 0 but in attention.
  RandomConv(const sbk::KernelTable& table, Random& random, int64_t in, int64_t out, int64_t group_count, int64_t heads,
             sbk::WeightType type = sbk::WeightType::float32, bool with_bias = true,
             sbk::Compute compute = sbk::Compute::float32)
      : n(out), k(in / group_count), groups(group_count), w(n * k) {
    std::vector<uint16_t> halves(w.size());
    for (size_t i = 0; i < w.size(); i++) {
      w[i] = random.uniform() * 1.7f / std::sqrt(static_cast<float>(k));
      if (type != sbk::WeightType::bfloat16) continue;
      halves[i] = static_cast<uint16_t>(std::bit_cast<uint32_t>(w[i]) >> 16);
      w[i] = std::bit_cast<float>(uint32_t{halves[i]} << 16);
    }
    const void* data = type == sbk::WeightType::float32 ? static_cast<const void*>(w.data()) : halves.data();
    const sbk::Weight weight{data, type, n, k, groups};
    packed = std::make_unique<Buffer>(sbk::packed_bytes(table, weight, heads, compute) / 4, Flush::end, 64);
    sbk::pack(table, weight, heads, packed->data(), sbk::serial(), compute);
    packed->freeze();
    if (!with_bias) return;
    bias = std::make_unique<Matrix>(1, n, n, Flush::end);
    bias->fill(random, 0.5f).freeze();
  }

  sbk::Conv conv() const {
    return {reinterpret_cast<const sbk::PackedHeader*>(packed->data()), bias ? bias->data() : nullptr};
  }
  Reals expected(const Reals& x, sbk::Activation activation = sbk::Activation::none,
                 const Reals* residual = nullptr) const {
    return ConvReference{w.data(), n, k, groups, bias ? bias->data() : nullptr, activation}(x, residual);
  }
};

struct RandomNorm {
  Matrix gamma, beta;
  float eps = 1e-12f;

  RandomNorm(Random& random, int64_t n) : gamma(1, n, n, Flush::end), beta(1, n, n, Flush::end) {
    gamma.fill(random, 1.5f).freeze(), beta.fill(random).freeze();
  }
  sbk::Norm norm() const { return {gamma.data(), beta.data(), eps}; }
  Reals expected(const Reals& x, int64_t lanes) const { return layer_norm(x, gamma.data(), beta.data(), eps, lanes); }
};

inline sbk::Input input(const Matrix& m) { return {m.data(), m.stride()}; }
inline sbk::Output output(Matrix& m) { return {m.data(), m.stride()}; }

// Any divisor of n.
inline int64_t divisor(Random& random, int64_t n) {
  std::vector<int64_t> all;
  for (int64_t d = 1; d <= n; d++) {
    if (n % d == 0) all.push_back(d);
  }
  return all[random.below(static_cast<int64_t>(all.size()))];
}
inline int64_t common_divisor(Random& random, int64_t a, int64_t b) { return divisor(random, std::gcd(a, b)); }

struct AttentionShape {
  int64_t batch, length, in, channels, heads, q_groups, k_groups, v_groups;

  std::string describe() const {
    return text("batch=", batch, " length=", length, " in=", in, " channels=", channels, " heads=", heads,
                " groups=", q_groups, ",", k_groups, ",", v_groups);
  }
};

// The four ways in which a mask may be broadcast, and none.
enum class Broadcast { none, keys, queries, heads, batch };

struct AttentionMaskCase {
  std::vector<float> data;
  sbk::AttentionMask mask;

  AttentionMaskCase(Random& random, Broadcast kind, int64_t batch, int64_t heads, int64_t length)
      : mask{nullptr, {0, 0, 0}} {
    const int64_t s = length;
    switch (kind) {
      case Broadcast::none:
        return;
      case Broadcast::keys:
        mask = {nullptr, {s, 0, 0}}, data.resize(batch * s);
        break;  // [B, 1, 1, S]
      case Broadcast::queries:
        mask = {nullptr, {s * s, 0, s}}, data.resize(batch * s * s);
        break;  // [B, 1, S, S]
      case Broadcast::heads:
        mask = {nullptr, {heads * s * s, s * s, s}}, data.resize(batch * heads * s * s);
        break;
      case Broadcast::batch:
        mask = {nullptr, {0, 0, s}}, data.resize(s * s);
        break;  // [1, 1, S, S]
    }
    // Key 0 always stays: a row that is masked away altogether is attention_special_test.cpp's.
    for (size_t i = 0; i < data.size(); i++) {
      data[i] = random.uniform();
      if (static_cast<int64_t>(i) % s != 0 && random.below(4) == 0) data[i] = std::numeric_limits<float>::lowest();
    }
    mask.data = data.data();
  }
  double at(int64_t b, int64_t h, int64_t q, int64_t key) const {
    return mask.data ? mask.data[b * mask.stride[0] + h * mask.stride[1] + q * mask.stride[2] + key] : 0;
  }
};

struct RandomAttention {
  AttentionShape shape;
  RandomConv q, k, v;

  RandomAttention(const sbk::KernelTable& table, Random& random, const AttentionShape& s,
                  sbk::WeightType type = sbk::WeightType::float32, sbk::Compute compute = sbk::Compute::float32)
      : shape(s),
        q(table, random, s.in, s.channels, s.q_groups, s.heads, type, true, compute),
        k(table, random, s.in, s.channels, s.k_groups, s.heads, type, s.length % 2 == 0, compute),
        v(table, random, s.in, s.channels, s.v_groups, s.heads, type, true, compute) {}

  sbk::AttentionBlock block() const { return {q.conv(), k.conv(), v.conv(), shape.heads}; }

  Reals expected(const Reals& x, const AttentionMaskCase& mask) const {
    const AttentionShape& s = shape;
    const int64_t d = s.channels / s.heads;
    const Reals queries = q.expected(x), keys = k.expected(x), values = v.expected(x);
    Reals context(s.batch * s.length, s.channels);
    for (int64_t b = 0; b < s.batch; b++) {
      for (int64_t h = 0; h < s.heads; h++) {
        const auto head = [&](const Reals& m) { return m.part(b * s.length, s.length, h * d, d); };
        const auto add = [&](int64_t r, int64_t j) { return mask.at(b, h, r, j); };
        context.put(b * s.length, h * d,
                    attention(head(queries), head(keys), head(values), 1 / std::sqrt(static_cast<double>(d)), add));
      }
    }
    return context;
  }
};

struct PostAttentionShape {
  int64_t rows, in, channels, hidden, post_groups, up_groups, down_groups;
  sbk::Activation activation;

  std::string describe() const {
    return text("rows=", rows, " in=", in, " channels=", channels, " hidden=", hidden, " groups=", post_groups, ",",
                up_groups, ",", down_groups, " activation=", static_cast<int>(activation));
  }
};

struct RandomPostAttention {
  PostAttentionShape shape;
  RandomConv post, up, down;
  RandomNorm post_norm, output_norm;

  RandomPostAttention(const sbk::KernelTable& table, Random& random, const PostAttentionShape& s,
                      sbk::WeightType type = sbk::WeightType::float32, sbk::Compute compute = sbk::Compute::float32)
      : shape(s),
        post(table, random, s.in, s.channels, s.post_groups, 0, type, true, compute),
        up(table, random, s.channels, s.hidden, s.up_groups, 0, type, s.rows % 2 == 0, compute),
        down(table, random, s.hidden, s.channels, s.down_groups, 0, type, true, compute),
        post_norm(random, s.channels),
        output_norm(random, s.channels) {}

  sbk::PostAttentionBlock block() const {
    return {post.conv(), up.conv(), down.conv(), post_norm.norm(), output_norm.norm(), shape.activation};
  }
  Reals expected(const Reals& context, const Reals& residual, int64_t lanes) const {
    const Reals h = post_norm.expected(post.expected(context, sbk::Activation::none, &residual), lanes);
    return output_norm.expected(down.expected(up.expected(h, shape.activation), sbk::Activation::none, &h), lanes);
  }
};

}  // namespace test
