// LowAttention, where the tier has it: against exact arithmetic on the rounded operands, with what fp16 sums round away
// followed sum by sum; and that scores of usual size do not leave the range of fp16 on their way.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/rounding.h"
#include "ops_case.h"
#include "runtime/cpu.h"
#include "support/check.h"
#include "support/reference.h"
#include "support/shapes.h"

namespace {

using sbk::Compute;
using namespace test;

// x as `compute` has it.
double rounded(Compute compute, double x) {
  const auto f = static_cast<float>(x);
  return compute == Compute::float16 ? sbk::round_to_fp16(f) : sbk::float_from_bits(sbk::round_to_bf16(f));
}

// A sum of products as the tier makes it, and a bound of what rounding may have done to it.
struct Sum {
  Compute compute;
  int64_t chunk, steps = 0;
  double value = 0, size = 0, error = 0, half = 0;

  void add(double product) {
    size += std::fabs(product), steps++;
    if (chunk == 0) {
      value += product;
      return;
    }
    // Each step rounds a partial sum to 11 bits, or to a multiple of the smallest half.
    half += product;
    error += std::fabs(half) * 0x1p-11 + 0x1p-25;
    if (steps % chunk == 0) flush();
  }
  void flush() { value += half, half = 0; }
  Real result() {
    flush();
    return {value, error * 1.01 + static_cast<double>(steps + 2) * kUnit * size};
  }
};

void run(const sbk::KernelTable& table, int64_t rows, int64_t keys, int64_t d, Flush flush) {
  const Context where([&] { return text("rows=", rows, " keys=", keys, " d=", d); });
  const sbk::LowAttention& low = table.low_attention;
  const sbk::LowPrecision& kernels = *sbk::low_precision(table, low.compute);
  const sbk::PackLayout& layout = sbk::layout_of(table.layout, low.compute);
  const auto units_in = [&](int64_t floats) { return floats * 4 / layout.unit_bytes; };
  const auto floats_for = [&](int64_t units) { return (units * layout.unit_bytes + 3) / 4; };
  const int64_t d_units = (d + layout.per - 1) / layout.per, key_units = (keys + layout.per - 1) / layout.per;
  const float scale = 0.37f;

  Random random(static_cast<uint64_t>(rows * 1000003 + keys * 1009 + d));
  Matrix q(rows, d, d, flush), k(keys, d, d, flush), v(keys, d, d, flush), k_columns(d, keys, keys, flush);
  q.fill(random), k.fill(random), v.fill(random);
  for (int64_t j = 0; j < keys; j++) {
    for (int64_t i = 0; i < d; i++) k_columns.at(i, j) = k.at(j, i);
  }
  q.freeze(), k_columns.freeze(), v.freeze();
  const int64_t ldq = floats_for(d_units), ldk = floats_for(round_up(keys, layout.lanes) + layout.lanes),
                ldv = floats_for(round_up(d, layout.lanes));
  Matrix q_units(rows, ldq, ldq + 1, flush), kt(d_units, ldk, ldk, flush), v_units(key_units, ldv, ldv, flush);
  kernels.encode({.x = q.data(),
                  .ldx = d,
                  .y = q_units.data(),
                  .ldy = units_in(q_units.stride()),
                  .quantization = nullptr,
                  .rows = rows,
                  .k = d});
  low.stack_rows({.x = k_columns.data(), .ldx = keys, .y = kt.data(), .ldy = units_in(ldk), .rows = d, .cols = keys});
  low.stack_rows({.x = v.data(), .ldx = d, .y = v_units.data(), .ldy = units_in(ldv), .rows = keys, .cols = d});
  q_units.freeze(), kt.freeze(), v_units.freeze();

  Matrix context(rows, d, d + 3, flush);
  Buffer scratch(table.attention_scratch(keys, d), flush, 64);
  low.attention({.q = q_units.data(),
                 .ldq = units_in(q_units.stride()),
                 .kt = kt.data(),
                 .ldk = units_in(ldk),
                 .v = v_units.data(),
                 .ldv = units_in(ldv),
                 .mask = nullptr,
                 .mask_row_stride = 0,
                 .context = context.data(),
                 .ldc = context.stride(),
                 .scratch = scratch.data(),
                 .rows = rows,
                 .keys = keys,
                 .d = d,
                 .scale = scale});

  const double unit = low.compute == Compute::float16 ? 0x1p-11 : 0x1p-8;
  Reals want(rows, d);
  for (int64_t r = 0; r < rows; r++) {
    std::vector<Real> p(keys);
    double highest = -INFINITY;
    for (int64_t j = 0; j < keys; j++) {
      Sum score{low.compute, kernels.chunk};
      for (int64_t i = 0; i < d; i++) score.add(rounded(low.compute, q.at(r, i)) * rounded(low.compute, k.at(j, i)));
      p[j] = score.result();
      highest = std::max(highest, p[j].value);
    }
    double total = 0, total_error = 0;
    for (Real& x : p) {
      const double e = std::exp(scale * (x.value - highest));
      x = {e, e * (std::expm1(scale * x.error) + 8 * kUnit)};
      total += x.value, total_error += x.error + static_cast<double>(keys) * kUnit * x.value;
    }
    for (int64_t c = 0; c < d; c++) {
      Sum sum{low.compute, kernels.chunk};
      double carried = 0;
      for (int64_t j = 0; j < keys; j++) {
        const double value = rounded(low.compute, v.at(j, c));
        sum.add(p[j].value * value);
        // A probability is rounded once more, and may be among the smallest halves.
        carried += (p[j].error + unit * p[j].value + 0x1p-25) * std::fabs(value);
      }
      const Real products = sum.result();
      // The partial sums that were followed were of exact probabilities.
      const double error = 1.01 * products.error + 1.01 * carried;
      want.at(r, c) = {products.value / total, error / total + std::fabs(products.value) / total * total_error / total};
    }
  }
  check_close(context, want);
  CHECK(scratch.untouched_but([](int64_t) { return true; }));
}

TEST(remainders_in_every_dimension) {
  if (table.low_attention.attention == nullptr) return;
  int next = 0;
  for (const int64_t rows : {1, 3, 4, 5, 25}) {
    for (const int64_t keys : {1, 2, 3, 7, 8, 9, 31, 33, 95, 97}) {
      for (const int64_t d : {1, 2, 5, 8, 9, 16, 17, 32, 33}) run(table, rows, keys, d, kBothEnds[next++ % 2]);
    }
  }
}

TEST(sizes_of_real_networks) {
  if (table.low_attention.attention == nullptr) return;
  run(table, 24, 128, 64, Flush::end);
  run(table, 5, 530, 64, Flush::start);  // two blocks of keys
}

// Queries and keys of 40 everywhere have scores of 12,800 over 64 channels, but their product alone is 102,400.
TEST(scores_stay_in_range) {
  const int64_t channels = 64, length = 19;
  Random random(31);
  std::vector<float> x(length * channels), w(channels * channels), identity(channels * channels);
  for (float& value : x) value = 40 + random.uniform();
  for (int64_t i = 0; i < channels; i++) identity[i * channels + i] = 1;
  const sbk::Weight weight{identity.data(), sbk::WeightType::float32, channels, channels, 1};
  const auto attend = [&](Compute compute) {
    Buffer packed(sbk::packed_bytes(table, weight, 1, compute) / 4, Flush::end, 64);
    sbk::pack(table, weight, 1, packed.data(), sbk::serial(), compute);
    const sbk::Conv conv{reinterpret_cast<const sbk::PackedHeader*>(packed.data()), nullptr};
    std::vector<float> context(length * channels);
    sbk::attention_block(table, sbk::serial(), {conv, conv, conv, 1}, {x.data(), channels},
                         Uniform(1, length).sequences(), {nullptr, {0, 0, 0}}, {context.data(), channels});
    return context;
  };
  for (const Compute compute : {Compute::float16, Compute::bfloat16, Compute::int8}) {
    const Context where([&] { return text("compute=", static_cast<int>(compute)); });
    bool good = true;
    // An average of values, whatever became of the scores.
    for (const float value : attend(compute)) good = good && value > 38 && value < 42;
    CHECK(good);
  }
}

}  // namespace
