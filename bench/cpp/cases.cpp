#include "cases.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "attention_case.h"
#include "buffers.h"
#include "kernels/rounding.h"
#include "layer_case.h"
#include "ops/packed.h"
#include "roundings.h"
#include "runtime/cpu.h"

namespace sbk::bench {
namespace {

double activate(double x, Activation activation) {
  switch (activation) {
    case Activation::gelu:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::gelu_tanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case Activation::relu:
      return x < 0 ? 0 : x;
    default:
      return x;
  }
}

// The words of a name behind the kernel's.
struct Words {
  std::vector<int64_t> sizes;
  int64_t groups = 1;
  bool bias = false, residual = false, mask = false, good = true;
  Activation activation = Activation::none;

  explicit Words(std::istringstream& in) {
    std::string word;
    if (in >> word) {
      std::istringstream dims(word);
      for (std::string part; std::getline(dims, part, 'x');) {
        char* end = nullptr;
        sizes.push_back(std::strtoll(part.c_str(), &end, 10));
        good &= !part.empty() && *end == '\0' && sizes.back() > 0;
      }
    }
    while (in >> word) {
      if (word[0] == 'g' && word.size() > 1 && std::isdigit(static_cast<unsigned char>(word[1]))) {
        groups = std::strtoll(word.c_str() + 1, nullptr, 10);
        good &= groups > 0;
      } else if (word == "bias") {
        bias = true;
      } else if (word == "residual") {
        residual = true;
      } else if (word == "mask") {
        mask = true;
      } else if (word == "gelu") {
        activation = Activation::gelu;
      } else if (word == "gelu_tanh") {
        activation = Activation::gelu_tanh;
      } else if (word == "relu") {
        activation = Activation::relu;
      } else {
        good = false;
      }
    }
  }
};

// Rows of x as convs in `compute` read them, group by group.
struct Encoded {
  const LowPrecision* low;
  PackLayout layout;
  int64_t rows, k, groups, units;
  Buffer<char> data;
  Buffer<RowQuantization> quantization;

  Encoded(const KernelTable& table, Compute compute, int64_t r, int64_t k_per_group, int64_t g)
      : low(low_precision(table, compute)),
        layout(layout_of(table.layout, compute)),
        rows(r),
        k(k_per_group),
        groups(g),
        units((k + layout.per - 1) / layout.per),
        data(low ? rows * groups * units * layout.unit_bytes : 0),
        quantization(low ? rows * groups : 0) {}

  void encode(const float* x) {
    for (int64_t g = 0; low && g < groups; g++) {
      low->encode({.x = x + g * k,
                   .ldx = groups * k,
                   .y = data.data() + g * units * layout.unit_bytes,
                   .ldy = groups * units,
                   .quantization = quantization.data() + g * rows,
                   .rows = rows,
                   .k = k});
    }
  }
  // Value i of row r, group g.
  double value(Compute compute, int64_t r, int64_t g, int64_t i) {
    const int bytes = layout.unit_bytes / layout.per, shift = 32 - 8 * bytes;
    uint32_t bits = 0;
    std::memcpy(&bits, data.data() + (r * groups + g) * units * layout.unit_bytes + i * bytes, bytes);
    if (compute == Compute::float16 && bytes == 2) return fp16_to_float(static_cast<uint16_t>(bits));
    if (compute != Compute::int8) return float_from_bits(bits << shift);
    const int64_t q = layout.least == 0 ? int64_t{bits} : static_cast<int32_t>(bits << shift) >> shift;
    const RowQuantization& row = quantization[g * rows + r];
    return static_cast<double>(q - row.zero) * row.scale;
  }
};

class ConvWork : public Work {
 public:
  ConvWork(const KernelTable& table, Compute compute, const Words& words)
      : table_(table),
        compute_(compute),
        words_(words),
        rows_(words.sizes[0]),
        k_(words.sizes[1]),
        n_(words.sizes[2]),
        columns_(n_ * words.groups),
        x_(rows_ * k_ * words.groups),
        w_(columns_ * k_),
        bias_(columns_),
        residual_(rows_ * columns_),
        y_(rows_ * columns_),
        packed_(packed_bytes(table, weight(), 0, compute)),
        encoded_(table, compute, rows_, k_, words.groups) {
    Random random;
    random.fill(x_, 1.0f), random.fill(w_, 1.7f / std::sqrt(static_cast<float>(k_)));
    random.fill(bias_, 0.5f), random.fill(residual_, 1.0f);
    pack(table, weight(), 0, packed_.data(), serial(), compute);
    encoded_.encode(x_.data());
    const double size = compute == Compute::float32 ? 4 : compute == Compute::int8 ? 1 : 2;
    flops = 2.0 * static_cast<double>(rows_ * k_ * columns_);
    bytes = size * static_cast<double>(x_.size() + w_.size()) + 4.0 * static_cast<double>(y_.size()) +
            (words.bias ? 4.0 * static_cast<double>(columns_) : 0) +
            (words.residual ? 4.0 * static_cast<double>(y_.size()) : 0);
  }
  void run() override {
    const LowPrecision* low = encoded_.low;
    const auto& header = *reinterpret_cast<const PackedHeader*>(packed_.data());
    const int64_t units = encoded_.units;
    const char* x = low ? encoded_.data.data() : reinterpret_cast<const char*>(x_.data());
    ConvArgs args{};
    args.ldx = words_.groups * units, args.ldr = columns_, args.ldy = columns_;
    args.rows = rows_, args.k = k_, args.n = header.block, args.activation = words_.activation;
    for (int64_t b = 0; b < columns_ / header.block; b++) {
      const int64_t column = b * header.block, g = column / n_;
      args.x = x + g * units * encoded_.layout.unit_bytes;
      args.x_quantization = low ? encoded_.quantization.data() + g * rows_ : nullptr;
      args.panels = header.block_values(b);
      args.bias = words_.bias ? bias_.data() + column : nullptr;
      args.residual = words_.residual ? residual_.data() + column : nullptr;
      args.y = y_.data() + column;
      (low ? low->conv : table_.conv)(args);
    }
  }
  double error() override {
    double worst = 0;
    for (int64_t r = 0; r < rows_; r++) {
      for (int64_t c = 0; c < columns_; c++) {
        const float *x = x_.data() + (r * words_.groups + c / n_) * k_, *w = w_.data() + c * k_;
        double sum = words_.bias ? bias_[c] : 0.0, size = std::fabs(sum), x_max = 0, w_max = 0, x_sum = 0, w_sum = 0;
        for (int64_t i = 0; i < k_; i++) {
          const double a = x[i], b = w[i];
          sum += a * b, size += std::fabs(a * b);
          x_max = std::max(x_max, std::fabs(a)), x_sum += std::fabs(a);
          w_max = std::max(w_max, std::fabs(b)), w_sum += std::fabs(b);
        }
        if (words_.residual) sum += residual_[r * columns_ + c], size += std::fabs(residual_[r * columns_ + c]);
        double allowed = static_cast<double>(k_ + 8) * kUnit * size + 16 * kUnit;
        if (compute_ == Compute::bfloat16 || compute_ == Compute::float16) {
          allowed += (2.02 * rounding(compute_) + chunk_error(encoded_.low, static_cast<double>(k_))) * size;
        }
        // Half a step of each factor times the other one; steps are the largest values / 127.
        if (compute_ == Compute::int8) {
          const double k = static_cast<double>(k_), x_half = x_max / 254, w_half = w_max / 254;
          allowed += 1.01 * (x_half * w_sum + w_half * x_sum + k * x_half * w_half);
        }
        const double want = activate(sum, words_.activation), got = y_[r * columns_ + c];
        const double share = std::fabs(got - want) / (1.13 * allowed);  // the steepest GELU anywhere
        if (!(share <= worst)) worst = share == share ? share : INFINITY;
      }
    }
    return worst;
  }

 private:
  Weight weight() { return {w_.data(), WeightType::float32, columns_, k_, words_.groups}; }

  const KernelTable& table_;
  const Compute compute_;
  const Words words_;
  const int64_t rows_, k_, n_, columns_;
  Buffer<float> x_, w_, bias_, residual_, y_;
  Buffer<char> packed_;
  Encoded encoded_;
};

class EncodeWork : public Work {
 public:
  EncodeWork(const KernelTable& table, Compute compute, const Words& words)
      : compute_(compute),
        x_(words.sizes[0] * words.sizes[1] * words.groups),
        encoded_(table, compute, words.sizes[0], words.sizes[1], words.groups) {
    Random().fill(x_, 1.0f);
    bytes = 4.0 * static_cast<double>(x_.size() + encoded_.data.size());
  }
  void run() override { encoded_.encode(x_.data()); }
  double error() override {
    double worst = 0;
    const int64_t k = encoded_.k, groups = encoded_.groups;
    for (int64_t row = 0; row < encoded_.rows * groups; row++) {
      const float* x = x_.data() + row * k;
      double largest = 0;
      for (int64_t i = 0; i < k; i++) largest = std::max<double>(largest, std::fabs(x[i]));
      for (int64_t i = 0; i < k; i++) {
        const double allowed =
            compute_ == Compute::int8 ? largest / 254 * (1 + 1e-4) : rounding(compute_) * std::fabs(x[i]) + 3e-8;
        worst = std::max(worst, std::fabs(encoded_.value(compute_, row / groups, row % groups, i) - x[i]) / allowed);
      }
    }
    return worst;
  }

 private:
  const Compute compute_;
  Buffer<float> x_;
  Encoded encoded_;
};

class LayerNormWork : public Work {
 public:
  LayerNormWork(const KernelTable& table, const Words& words)
      : table_(table),
        rows_(words.sizes[0]),
        n_(words.sizes[1]),
        x_(rows_ * n_),
        gamma_(n_),
        beta_(n_),
        y_(rows_ * n_) {
    Random random;
    random.fill(x_, 1.0f), random.fill(gamma_, 1.0f), random.fill(beta_, 1.0f);
    bytes = 4.0 * static_cast<double>(2 * x_.size() + 2 * n_);
  }
  void run() override {
    table_.layer_norm({.x = x_.data(),
                       .ldx = n_,
                       .gamma = gamma_.data(),
                       .beta = beta_.data(),
                       .y = y_.data(),
                       .ldy = n_,
                       .rows = rows_,
                       .n = n_,
                       .eps = 1e-12f});
  }
  double error() override {
    double worst = 0;
    const double n = static_cast<double>(n_);
    for (int64_t r = 0; r < rows_; r++) {
      double mean = 0, variance = 0;
      for (int64_t c = 0; c < n_; c++) mean += x_[r * n_ + c] / n;
      for (int64_t c = 0; c < n_; c++) variance += std::pow(x_[r * n_ + c] - mean, 2) / n;
      for (int64_t c = 0; c < n_; c++) {
        const double normal = (x_[r * n_ + c] - mean) / std::sqrt(variance + 1e-12),
                     want = normal * gamma_[c] + beta_[c];
        worst = std::max(worst, std::fabs(y_[r * n_ + c] - want) / (n * kUnit * (2 + std::fabs(normal))));
      }
    }
    return worst;
  }

 private:
  const KernelTable& table_;
  const int64_t rows_, n_;
  Buffer<float> x_, gamma_, beta_, y_;
};

class TransposeWork : public Work {
 public:
  TransposeWork(const KernelTable& table, const Words& words)
      : table_(table),
        rows_(words.sizes[0]),
        cols_(words.sizes[1]),
        ldy_(round_up(rows_, table.lanes) + 16),
        x_(rows_ * cols_),
        y_(cols_ * ldy_) {
    Random().fill(x_, 1.0f);
    bytes = 8.0 * static_cast<double>(x_.size());
  }
  void run() override {
    table_.transpose({.x = x_.data(), .ldx = cols_, .y = y_.data(), .ldy = ldy_, .rows = rows_, .cols = cols_});
  }
  double error() override {
    for (int64_t r = 0; r < rows_; r++) {
      for (int64_t c = 0; c < cols_; c++) {
        if (y_[c * ldy_ + r] != x_[r * cols_ + c]) return INFINITY;
      }
    }
    return 0;
  }

 private:
  const KernelTable& table_;
  const int64_t rows_, cols_, ldy_;
  Buffer<float> x_, y_;
};

}  // namespace

bool has_case(const KernelTable& table, Compute compute, const std::string& name) {
  std::istringstream in(name);
  std::string kernel;
  in >> kernel;
  const Words words(in);
  const size_t sizes = words.good ? words.sizes.size() : 0;
  const bool fp32 = compute == Compute::float32;
  const bool low_attention = table.low_attention.attention != nullptr && compute == table.low_attention.compute;
  if (kernel == "conv") return sizes == 3;
  if (kernel == "encoder_layer") {
    return sizes == 3 && words.sizes[1] % words.groups == 0 && words.sizes[2] % words.groups == 0;
  }
  if (kernel == "encode") return sizes == 2 && !fp32;
  if (kernel == "layer_norm" || kernel == "transpose") return sizes == 2 && fp32;
  if (kernel == "attention") return sizes == 3 && (fp32 || low_attention);
  return false;
}

std::unique_ptr<Work> open_case(const KernelTable& table, Compute compute, const std::string& name) {
  if (!has_case(table, compute, name)) return nullptr;
  std::istringstream in(name);
  std::string kernel;
  in >> kernel;
  const Words words(in);
  if (kernel == "conv") return std::make_unique<ConvWork>(table, compute, words);
  if (kernel == "encoder_layer") {
    return open_layer(table, compute, {words.sizes[0], words.sizes[1], words.sizes[2], words.groups});
  }
  if (kernel == "encode") return std::make_unique<EncodeWork>(table, compute, words);
  if (kernel == "layer_norm") return std::make_unique<LayerNormWork>(table, words);
  if (kernel == "transpose") return std::make_unique<TransposeWork>(table, words);
  return open_attention(table, compute, {words.sizes[0], words.sizes[1], words.sizes[2], words.mask});
}

const std::vector<std::string>& case_names() {
  static const std::vector<std::string> names{
      // SqueezeBERT: up, down, post-attention, projections
      "conv 128x192x768 g4", "conv 128x192x768 g4 bias gelu", "conv 128x768x192 g4",
      "conv 128x768x192 g4 bias residual", "conv 128x768x768 g1", "conv 128x768x768 g1 bias residual",
      "conv 128x192x192 g4", "conv 128x192x192 g4 bias",
      // MiniLM
      "conv 128x384x1536 g1", "conv 128x384x1536 g1 bias gelu", "conv 128x1536x384 g1", "conv 128x384x384 g1",
      // remainders of rows, of K and of columns
      "conv 37x192x768 g4 bias gelu", "conv 128x191x768 g1", "conv 61x90x203 g1 bias", "conv 7x33x65 g3 bias gelu_tanh",
      // around the convolutions
      "encode 128x192 g4", "encode 128x768 g1", "encode 61x203 g1", "layer_norm 128x768", "layer_norm 128x384",
      "layer_norm 61x203", "transpose 128x64", "transpose 61x33",
      // one head of SqueezeBERT, of MiniLM, and remainders
      "attention 128x128x64", "attention 128x128x64 mask", "attention 384x384x64 mask", "attention 128x128x32 mask",
      "attention 61x61x33 mask"};
  return names;
}

bool parse_compute(const std::string& name, Compute* compute) {
  for (Compute c : kComputes) {
    if (name == compute_name(c)) return *compute = c, true;
  }
  return false;
}

}  // namespace sbk::bench
