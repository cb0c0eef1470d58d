#include "layer_case.h"

#include <algorithm>
#include <cmath>

#include "buffers.h"
#include "ops/ops.h"
#include "runtime/cpu.h"

namespace sbk::bench {
namespace {

constexpr int64_t kHeadSize = 64;

class LayerWork : public Work {
 public:
  LayerWork(const KernelTable& table, Compute compute, const LayerShape& s)
      : table_(table),
        compute_(compute),
        shape_(s),
        x_(s.rows * s.channels),
        y_(s.rows * s.channels),
        one_(s.channels),
        zero_(s.channels),
        query_(*this, s.channels, s.channels, s.groups, heads()),
        key_(*this, s.channels, s.channels, s.groups, heads()),
        value_(*this, s.channels, s.channels, s.groups, heads()),
        post_(*this, s.channels, s.channels, 1, 0),
        up_(*this, s.channels, s.hidden, s.groups, 0),
        down_(*this, s.hidden, s.channels, s.groups, 0) {
    Random().fill(x_, 1.7f);
    for (int64_t i = 0; i < s.channels; i++) one_[i] = 1;
    for (const Packed* w : {&query_, &key_, &value_, &post_, &up_, &down_}) {
      flops += 2.0 * static_cast<double>(s.rows * w->size), bytes += 4.0 * static_cast<double>(w->size);
    }
    flops += 4.0 * static_cast<double>(s.rows * s.rows * s.channels);
  }
  void run() override {
    const int64_t offsets[] = {0, shape_.rows};
    const Norm norm{one_.data(), zero_.data(), 1e-12f};
    const Input x{x_.data(), shape_.channels};
    encoder_layer(table_, serial(), {query_.conv(), key_.conv(), value_.conv(), heads()},
                  {post_.conv(), up_.conv(), down_.conv(), norm, norm, Activation::gelu}, x, {1, offsets},
                  {nullptr, {0, 0, 0}}, {y_.data(), shape_.channels});
  }
  // Against fp32 in plain C++. Outputs are normalized, so an error is a share of their spread.
  double error() override {
    LayerWork reference(*available_tables().front(), Compute::float32, shape_);
    reference.run();
    const double allowed = compute_ == Compute::float32   ? 1e-4
                           : compute_ == Compute::float16 ? 0.03
                           : compute_ == Compute::int8    ? 0.3
                                                          : 0.1;
    double worst = 0;
    for (int64_t i = 0; i < y_.size(); i++) {
      const double share = std::fabs(y_[i] - reference.y_[i]) / allowed;
      if (!(share <= worst)) worst = share == share ? share : INFINITY;
    }
    return worst;
  }

 private:
  struct Packed {
    int64_t size;
    Buffer<float> bias;
    Buffer<char> section;

    Packed(const LayerWork& layer, int64_t in, int64_t out, int64_t groups, int64_t num_heads)
        : size(out * (in / groups)),
          bias(out),
          section(packed_bytes(layer.table_, {nullptr, WeightType::float32, out, in / groups, groups}, num_heads,
                               layer.compute_)) {
      Buffer<float> w(size);
      Random().fill(w, 1.7f / std::sqrt(static_cast<float>(in / groups)));
      pack(layer.table_, {w.data(), WeightType::float32, out, in / groups, groups}, num_heads, section.data(), serial(),
           layer.compute_);
    }
    Conv conv() { return {reinterpret_cast<const PackedHeader*>(section.data()), bias.data()}; }
  };

  int64_t heads() const { return std::max<int64_t>(shape_.channels / kHeadSize, 1); }

  const KernelTable& table_;
  const Compute compute_;
  const LayerShape shape_;
  Buffer<float> x_, y_, one_, zero_;
  Packed query_, key_, value_, post_, up_, down_;
};

}  // namespace

std::unique_ptr<Work> open_layer(const KernelTable& table, Compute compute, const LayerShape& shape) {
  return std::make_unique<LayerWork>(table, compute, shape);
}

}  // namespace sbk::bench
