#include "attention_case.h"

#include <algorithm>
#include <cmath>

#include "buffers.h"
#include "roundings.h"
#include "runtime/cpu.h"

namespace sbk::bench {
namespace {

class AttentionWork : public Work {
 public:
  AttentionWork(const KernelTable& table, Compute compute, const AttentionShape& shape)
      : table_(table),
        compute_(compute),
        layout_(layout_of(table.layout, compute)),
        rows_(shape.rows),
        keys_(shape.keys),
        d_(shape.d),
        masked_(shape.is_masked),
        d_units_((d_ + layout_.per - 1) / layout_.per),
        ldk_(round_up(keys_, layout_.lanes) + 16),
        ldv_(round_up(d_, layout_.lanes)),
        q_(rows_ * d_),
        k_(keys_ * d_),
        v_(keys_ * ldv_ + 64),
        kt_(d_ * ldk_),
        mask_(keys_),
        context_(rows_ * d_),
        scratch_(table.attention_scratch(keys_, d_)),
        q_units_(rows_ * d_),
        k_units_(d_ * ldk_),
        v_units_(v_.size()) {
    Random random;
    random.fill(q_, 2.0f), random.fill(k_, 2.0f), random.fill(v_, 1.0f);
    for (int64_t j = 0; masked_ && j < keys_; j++) mask_[j] = j % 5 == 4 ? -3.4e38f : 0.0f;
    const auto transpose = [&](const float* k, int64_t columns, float* kt) {
      table.transpose({.x = k, .ldx = columns, .y = kt, .ldy = ldk_, .rows = keys_, .cols = columns});
    };
    if (compute == Compute::float32) {
      transpose(k_.data(), d_, kt_.data());
    } else {
      const LowAttention& low = table.low_attention;
      const auto encode = [&](float* x, float* y, int64_t rows) {
        low_precision(table, compute)
            ->encode({.x = x, .ldx = d_, .y = y, .ldy = d_units_, .quantization = nullptr, .rows = rows, .k = d_});
      };
      encode(q_.data(), q_units_.data(), rows_);
      if (layout_.unit_bytes == 4) {
        encode(k_.data(), k_units_.data(), keys_);
        transpose(k_units_.data(), d_units_, kt_.data());
      } else {
        transpose(k_.data(), d_, k_units_.data());
        low.stack_rows({.x = k_units_.data(), .ldx = ldk_, .y = kt_.data(), .ldy = ldk_, .rows = d_, .cols = keys_});
      }
      low.stack_rows({.x = v_.data(), .ldx = ldv_, .y = v_units_.data(), .ldy = ldv_, .rows = keys_, .cols = d_});
    }
    flops = 4.0 * static_cast<double>(rows_ * keys_ * d_);
    bytes = (compute == Compute::float32 ? 4.0 : 2.0) * static_cast<double>((rows_ + 2 * keys_) * d_) +
            4.0 * static_cast<double>(rows_ * d_);
  }
  void run() override {
    const bool low = compute_ != Compute::float32;
    (low ? table_.low_attention.attention : table_.attention)({.q = low ? q_units_.data() : q_.data(),
                                                               .ldq = d_units_,
                                                               .kt = kt_.data(),
                                                               .ldk = ldk_,
                                                               .v = low ? v_units_.data() : v_.data(),
                                                               .ldv = ldv_,
                                                               .mask = masked_ ? mask_.data() : nullptr,
                                                               .mask_row_stride = 0,
                                                               .context = context_.data(),
                                                               .ldc = d_,
                                                               .scratch = scratch_.data(),
                                                               .rows = rows_,
                                                               .keys = keys_,
                                                               .d = d_,
                                                               .scale = scale()});
  }
  double error() override {
    double worst = 0;
    std::vector<double> p(keys_);
    const double unit = rounding(compute_);
    const LowPrecision* low = low_precision(table_, compute_);
    for (int64_t r = 0; r < rows_; r++) {
      double highest = -INFINITY, sum = 0, spread = 0;
      for (int64_t j = 0; j < keys_; j++) {
        double score = 0, size = 0;
        for (int64_t i = 0; i < d_; i++) {
          const double product = static_cast<double>(q_[r * d_ + i]) * k_[j * d_ + i];
          score += product, size += std::fabs(product);
        }
        p[j] = score * scale() + mask_[j];
        highest = std::max(highest, p[j]), spread = std::max(spread, size * scale());
      }
      for (double& x : p) sum += x = std::exp(x - highest);
      for (int64_t c = 0; c < d_; c++) {
        double want = 0, size = 0;
        for (int64_t j = 0; j < keys_; j++) {
          const double term = p[j] / sum * v_[j * ldv_ + c];
          want += term, size += std::fabs(term);
        }
        // Two roundings per product of a score, carried through exp into numerator and denominator; then p and v.
        const double d = static_cast<double>(d_), keys = static_cast<double>(keys_);
        const double products = (low ? 4 : d) * unit + chunk_error(low, d);
        const double allowed =
            size * (products * spread + 4 * unit + chunk_error(low, keys)) + (keys + 8) * kUnit * size;
        worst = std::max(worst, std::fabs(context_[r * d_ + c] - want) / allowed);
      }
    }
    return worst;
  }

 private:
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(d_)); }

  const KernelTable& table_;
  const Compute compute_;
  const PackLayout layout_;
  const int64_t rows_, keys_, d_;
  const bool masked_;
  const int64_t d_units_, ldk_, ldv_;
  Buffer<float> q_, k_, v_, kt_, mask_, context_, scratch_, q_units_, k_units_, v_units_;
};

}  // namespace

std::unique_ptr<Work> open_attention(const KernelTable& table, Compute compute, const AttentionShape& shape) {
  return std::make_unique<AttentionWork>(table, compute, shape);
}

}  // namespace sbk::bench
