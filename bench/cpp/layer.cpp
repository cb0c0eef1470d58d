#include "layer.h"

#include <cmath>

#include "buffers.h"
#include "core/cpu.h"
#include "core/ops.h"
#include "core/packed.h"

namespace sbk::bench {
namespace {

constexpr int64_t kHead = 64;

// The roundings of a product in `compute`: the largest relative error of one value.
double unit(Compute compute) {
  switch (compute) {
    case Compute::float32:
      return 0x1p-24;
    case Compute::int8:
      return 1.0 / 254;
    default:
      return 0x1p-8;
  }
}

// Row-major weights [n][k per group] and a bias, the same for every tier.
struct DenseConv {
  int64_t n, k, groups;
  Buffer<float> w, bias;

  DenseConv(Random& random, int64_t in, int64_t out, int64_t g) : n(out), k(in / g), groups(g), w(n * k), bias(n) {
    random.fill(w, 1.7f / std::sqrt(static_cast<float>(k)));
    random.fill(bias, 0.1f);
  }
  Weight weight() { return {w.data(), WeightType::float32, n, k, groups}; }
};

struct PackedConv {
  Buffer<char> packed;
  const float* bias;

  PackedConv(const KernelTable& table, Compute compute, DenseConv& dense, int64_t heads)
      : packed(packed_bytes(table, dense.weight(), heads, compute)), bias(dense.bias.data()) {
    pack(table, dense.weight(), heads, packed.data(), serial(), compute);
  }
  Conv conv() { return {reinterpret_cast<const PackedHeader*>(packed.data()), bias}; }
};

class LayerWork : public Work {
 public:
  LayerWork(const KernelTable& table, Compute compute, int64_t tokens, int64_t channels, int64_t hidden, int64_t groups)
      : table_(table),
        compute_(compute),
        tokens_(tokens),
        channels_(channels),
        query_(random_, channels, channels, groups),
        key_(random_, channels, channels, groups),
        value_(random_, channels, channels, groups),
        post_(random_, channels, channels, 1),
        up_(random_, channels, hidden, groups),
        down_(random_, hidden, channels, groups),
        gamma_(channels),
        beta_(channels),
        x_(tokens * channels),
        y_(tokens * channels),
        packed_(pack_for(table, compute)) {
    random_.fill(x_, 1.7f), random_.fill(gamma_, 1.0f), random_.fill(beta_, 1.0f);
    const double t = static_cast<double>(tokens), c = static_cast<double>(channels), h = static_cast<double>(hidden);
    const double weights = (3 * c * c + 2 * c * h) / static_cast<double>(groups) + c * c;
    flops = 2 * (t * weights + 2 * t * t * c);
    bytes = weights * (compute == Compute::float32 ? 4 : compute == Compute::int8 ? 1 : 2) + 8 * t * c;
  }
  void run() override { run(table_, *packed_, y_); }

  // Against the scalar tier in fp32: relative, in the Frobenius norm, six products deep.
  double error() override {
    const KernelTable& scalar = *available_tables().front();
    const auto packed = pack_for(scalar, Compute::float32);
    Buffer<float> want(y_.size());
    run(scalar, *packed, want);
    double difference = 0, size = 0;
    for (int64_t i = 0; i < y_.size(); i++) {
      difference += std::pow(static_cast<double>(y_[i]) - want[i], 2), size += std::pow(want[i], 2);
    }
    const double per_sum = compute_ == Compute::float32 ? std::sqrt(static_cast<double>(channels_)) : 1;
    const double share = std::sqrt(difference / size) / (4 * unit(compute_) * std::sqrt(6.0) * per_sum);
    return share == share ? share : INFINITY;
  }

 private:
  struct Packed {
    PackedConv query, key, value, post, up, down;
  };

  std::unique_ptr<Packed> pack_for(const KernelTable& table, Compute compute) {
    const int64_t heads = channels_ / kHead;
    return std::unique_ptr<Packed>(new Packed{{table, compute, query_, heads},
                                              {table, compute, key_, heads},
                                              {table, compute, value_, heads},
                                              {table, compute, post_, 0},
                                              {table, compute, up_, 0},
                                              {table, compute, down_, 0}});
  }
  void run(const KernelTable& table, Packed& packed, Buffer<float>& y) {
    const Norm norm{gamma_.data(), beta_.data(), 1e-12f};
    const int64_t offsets[] = {0, tokens_};
    encoder_layer(table, serial(), {packed.query.conv(), packed.key.conv(), packed.value.conv(), channels_ / kHead},
                  {packed.post.conv(), packed.up.conv(), packed.down.conv(), norm, norm, Activation::gelu},
                  {x_.data(), channels_}, {1, offsets}, {nullptr, {0, 0, 0}}, {y.data(), channels_});
  }

  const KernelTable& table_;
  const Compute compute_;
  const int64_t tokens_, channels_;
  Random random_;
  DenseConv query_, key_, value_, post_, up_, down_;
  Buffer<float> gamma_, beta_, x_, y_;
  std::unique_ptr<Packed> packed_;
};

}  // namespace

bool is_layer(int64_t channels, int64_t hidden, int64_t groups) {
  return channels % kHead == 0 && channels % groups == 0 && hidden % groups == 0;
}

std::unique_ptr<Work> open_layer(const KernelTable& table, Compute compute, int64_t tokens, int64_t channels,
                                 int64_t hidden, int64_t groups) {
  return std::make_unique<LayerWork>(table, compute, tokens, channels, hidden, groups);
}

}  // namespace sbk::bench
