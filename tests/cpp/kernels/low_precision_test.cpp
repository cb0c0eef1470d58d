// LowPrecision::encode and LowPrecision::conv, bf16, int8 and fp16, against the oracle on the rounded operands: what a
// low precision convolution may differ in is the rounding of its operands and, in fp16 arithmetic, of every sum of a
// chunk; both are exact arithmetic here, and nothing else is allowed.
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "ops/packed.h"
#include "support/check.h"
#include "support/guarded.h"
#include "support/reference.h"
#include "support/shapes.h"

namespace {

using sbk::Activation;
using sbk::Compute;
using namespace test;

constexpr Compute kComputes[] = {Compute::bfloat16, Compute::int8, Compute::float16};

const sbk::LowPrecision& kernels(const sbk::KernelTable& table, Compute compute) {
  return *sbk::low_precision(table, compute);
}

// A unit is `floats_of` of it: rows of units in matrices of floats.
int64_t floats_of(const sbk::PackLayout& layout, int64_t units) { return (units * layout.unit_bytes + 3) / 4; }
int64_t units_of(const sbk::PackLayout& layout, int64_t floats) { return floats * 4 / layout.unit_bytes; }

float nearest_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (x != x) return x;
  bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// By arithmetic alone: 11 significant bits, or a multiple of 2^-24. Exact for a sum of products of halves, too.
double nearest_fp16(double x) {
  if (!std::isfinite(x) || x == 0) return x;
  int exponent = 0;
  std::frexp(x, &exponent);
  const int ulp = std::max(exponent - 11, -24);
  const double rounded = std::ldexp(std::nearbyint(std::ldexp(x, -ulp)), ulp);
  return std::fabs(rounded) > 65504 ? std::copysign(INFINITY, x) : rounded;
}

// The least float with 16 significant bits that is not below x > 0.
float up_to_16_bits(float x) {
  int exponent = 0;
  const double fraction = std::frexp(x, &exponent);
  return static_cast<float>(std::ldexp(std::ceil(fraction * 65536), exponent - 16));
}

enum class Role { activation, weight };

// What `count` values with a stride of 1 become, and the scale of the whole.
struct Rounded {
  std::vector<double> values;
  double scale = 1;

  Rounded(const float* x, int64_t count, Compute compute, Role role) {
    float least = 0, greatest = 0;
    for (int64_t i = 0; i < count; i++) least = std::min(least, x[i]), greatest = std::max(greatest, x[i]);
    // Weights are symmetric, activations take their whole range.
    const float half_span = role == Role::weight ? std::max(greatest, -least) : 0.5f * greatest - 0.5f * least;
    if (compute == Compute::int8) scale = half_span / 127.0f;
    // As the kernels do it: times the inverse of the scale, in float.
    float inverse = half_span > 0 ? 127.0f / half_span : 0.0f;
    if (compute == Compute::int8 && role == Role::weight && half_span > 0) {
      scale = up_to_16_bits(half_span / 127.0f);
      inverse = 1.0f / static_cast<float>(scale);
    }
    for (int64_t i = 0; i < count; i++) {
      values.push_back(compute == Compute::int8       ? std::nearbyint(x[i] * inverse)
                       : compute == Compute::bfloat16 ? nearest_bf16(x[i])
                                                      : nearest_fp16(x[i]));
    }
  }
};

// Between guard pages.
struct Quantization {
  Buffer buffer;

  Quantization(int64_t rows, Flush flush)
      : buffer(rows * static_cast<int64_t>(sizeof(sbk::RowQuantization) / sizeof(float)), flush) {}
  sbk::RowQuantization* data() { return reinterpret_cast<sbk::RowQuantization*>(buffer.data()); }
  void freeze() { buffer.freeze(); }
};

// Value i of encoded units.
double decoded(const sbk::PackLayout& layout, Compute compute, const float* units, int64_t i, int32_t zero) {
  const int bytes = layout.unit_bytes / layout.per;
  uint32_t bits = 0;
  std::memcpy(&bits, reinterpret_cast<const char*>(units) + i * bytes, bytes);
  if (compute == Compute::int8) {
    const int shift = 32 - 8 * bytes;
    // VNNI's are unsigned.
    const int64_t q = layout.least == 0 ? int64_t{bits} : static_cast<int32_t>(bits << shift) >> shift;
    return static_cast<double>(q - zero);
  }
  if (compute == Compute::float16 && bytes == 2) {
    const int exponent = static_cast<int>(bits >> 10 & 31), mantissa = static_cast<int>(bits & 1023);
    const double sign = bits >> 15 ? -1 : 1;
    if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
    return sign * (exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25));
  }
  if (bytes == 2) bits <<= 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

TEST(encoding_rounds_to_nearest) {
  for (const Compute compute : kComputes) {
    const sbk::LowPrecision& low = kernels(table, compute);
    const sbk::PackLayout& layout = sbk::layout_of(table.layout, compute);
    for (const int64_t k : {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 67}) {
      for (const Flush flush : kBothEnds) {
        const Context where([&] { return text("compute=", static_cast<int>(compute), " k=", k); });
        Random random(static_cast<uint64_t>(k));
        const int64_t rows = 6, floats = floats_of(layout, (k + layout.per - 1) / layout.per);
        // A gap that is whole units, and a float at least.
        Matrix x(rows, k, k + 2, flush), y(rows, floats, floats + std::max(layout.unit_bytes / 4, 1), flush);
        x.fill(random, 3.0f);
        for (int64_t i = 0; i < k; i++) {
          x.at(1, i) = 0;
          x.at(3, i) = std::fabs(x.at(3, i)), x.at(4, i) = -std::fabs(x.at(4, i));
          x.at(5, i) = i % 2 ? 3e38f : -3e38f;
        }
        x.freeze();
        Quantization quantization(rows, flush);
        low.encode({.x = x.data(),
                    .ldx = x.stride(),
                    .y = y.data(),
                    .ldy = units_of(layout, y.stride()),
                    .quantization = compute == Compute::int8 ? quantization.data() : nullptr,
                    .rows = rows,
                    .k = k});
        CHECK(y.gaps_untouched());
        for (int64_t r = 0; r < rows; r++) {
          const Rounded wanted(x.data() + r * x.stride(), k, compute, Role::activation);
          int32_t zero = 0;
          if (compute == Compute::int8) {
            zero = quantization.data()[r].zero;
            CHECK(layout.least != sbk::kSymmetric || zero == 0);
            CHECK(std::fabs(quantization.data()[r].scale - wanted.scale) <= 2 * kUnit * wanted.scale);
          }
          for (int64_t i = 0; i < k; i++) {
            CHECK_EQ(decoded(layout, compute, y.data() + r * y.stride(), i, zero),
                     wanted.values[static_cast<size_t>(i)]);
          }
          if (compute != Compute::int8) {  // int8 weights are 0 behind k, whatever x is there
            for (int64_t i = k; i < (k + layout.per - 1) / layout.per * layout.per; i++) {
              CHECK_EQ(decoded(layout, compute, y.data() + r * y.stride(), i, zero), 0.0);
            }
          }
        }
      }
    }
  }
}

struct Case {
  int64_t rows, n, k;
  bool bias, residual;
  Activation activation;
  Flush flush;
};

void run(const sbk::KernelTable& table, Compute compute, const Case& c) {
  const Context where([&] {
    return text("compute=", static_cast<int>(compute), " rows=", c.rows, " n=", c.n, " k=", c.k, " bias=", c.bias,
                " residual=", c.residual, " activation=", static_cast<int>(c.activation));
  });
  const sbk::LowPrecision& low = kernels(table, compute);
  Random random(static_cast<uint64_t>(c.rows * 1000003 + c.n * 1009 + c.k));
  const sbk::PackLayout& layout = sbk::layout_of(table.layout, compute);
  const int64_t floats = floats_of(layout, (c.k + layout.per - 1) / layout.per);
  Matrix x(c.rows, c.k, c.k, c.flush), w(c.n, c.k, c.k, c.flush), bias(1, c.n, c.n, c.flush);
  Matrix residual(c.rows, c.n, c.n + 1, c.flush), y(c.rows, c.n, c.n + 3, c.flush);
  Matrix encoded(c.rows, floats, floats + 2, c.flush);
  x.fill(random).freeze(), w.fill(random).freeze(), bias.fill(random).freeze(), residual.fill(random).freeze();
  Quantization quantization(c.rows, c.flush);
  low.encode({.x = x.data(),
              .ldx = x.stride(),
              .y = encoded.data(),
              .ldy = units_of(layout, encoded.stride()),
              .quantization = quantization.data(),
              .rows = c.rows,
              .k = c.k});
  encoded.freeze(), quantization.freeze();

  const sbk::Weight weight{w.data(), sbk::WeightType::float32, c.n, c.k, 1};
  // One head: all columns in one block.
  Buffer section(sbk::packed_bytes(table, weight, 1, compute) / 4, Flush::end, 64);
  sbk::pack(table, weight, 1, section.data(), sbk::serial(), compute);
  const auto* header = reinterpret_cast<const sbk::PackedHeader*>(section.data());
  // Exactly the block, flush with the guard page.
  Buffer panels(header->block_bytes() / 4, c.flush);
  std::memcpy(panels.data(), header->values(), static_cast<size_t>(panels.size()) * sizeof(float));
  panels.freeze();

  low.conv({.x = encoded.data(),
            .ldx = units_of(layout, encoded.stride()),
            .panels = panels.data(),
            .bias = c.bias ? bias.data() : nullptr,
            .residual = c.residual ? residual.data() : nullptr,
            .ldr = residual.stride(),
            .y = y.data(),
            .ldy = y.stride(),
            .rows = c.rows,
            .k = c.k,
            .n = c.n,
            .activation = c.activation,
            .x_quantization = quantization.data()});

  Reals expected(c.rows, c.n);
  for (int64_t r = 0; r < c.rows; r++) {
    const Rounded a(x.data() + r * x.stride(), c.k, compute, Role::activation);
    for (int64_t col = 0; col < c.n; col++) {
      const Rounded b(w.data() + col * w.stride(), c.k, compute, Role::weight);
      double sum = 0, size = 0, half = 0;
      for (size_t i = 0; i < a.values.size(); i++) {
        const double product = a.values[i] * b.values[i];
        if (low.chunk == 0) {
          sum += product, size += std::fabs(product);
          continue;
        }
        half = nearest_fp16(half + product);
        if ((static_cast<int64_t>(i) + 1) % low.chunk == 0 || i + 1 == a.values.size()) {
          sum += half, size += std::fabs(half), half = 0;
        }
      }
      // int8: the sum is exact; rounded are the scales (two each), their product, the sum as a float and the result.
      // With chunks an fp32 sum has one term for each, and the residual is the second one.
      const double roundings = compute == Compute::int8 ? 8
                               : low.chunk == 0         ? static_cast<double>(c.k) + 2
                                                        : static_cast<double>(c.k / low.chunk) + 3;
      if (c.residual && low.chunk != 0) size += std::fabs(residual.at(r, col));
      const double scales = a.scale * b.scale, added = c.bias ? bias.at(0, col) : 0;
      Real value{sum * scales + added, roundings * kUnit * (size * scales + std::fabs(added))};
      if (c.residual) {
        value.value += residual.at(r, col),
            value.error += kUnit * (std::fabs(value.value) + std::fabs(residual.at(r, col)));
      }
      expected.at(r, col) = activate(value, c.activation, low.chunk == 0 ? kPhiError : kPhiErrorOfHalves);
    }
  }
  check_close(y, expected);
}

TEST(remainders_in_every_dimension) {
  constexpr Activation kActivations[] = {Activation::none, Activation::gelu, Activation::none, Activation::relu};
  size_t next = 0;
  for (const Compute compute : kComputes) {
    for (const int64_t rows : row_sizes(table)) {
      for (const int64_t n : column_sizes(sbk::layout_of(table.layout, compute))) {
        for (const int64_t k : {1, 2, 3, 4, 5, 7, 8, 9, 33}) {
          const size_t i = next++;
          const Activation activation = kActivations[i % 4];
          run(table, compute,
              {rows, n, k, i % 3 != 0, i % 5 == 0 && activation == Activation::none, activation, kBothEnds[i % 2]});
        }
      }
    }
  }
}

// More than one chunk of fp16 sums, and remainders of one.
TEST(long_sums) {
  for (const int64_t k : {95, 96, 97, 191, 192, 193, 305, 384, 385}) {
    run(table, Compute::float16, {5, 37, k, true, k % 2 == 0, Activation::none, kBothEnds[k % 2]});
  }
}

TEST(sizes_of_real_networks) {
  for (const Compute compute : kComputes) {
    run(table, compute, {19, 768, 192, true, false, Activation::gelu, Flush::end});
    run(table, compute, {9, 192, 768, true, true, Activation::none, Flush::start});
  }
}

TEST(nan_and_infinity_poison_their_row) {
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()};
  for (const float value : bad) {
    for (const int64_t at : {0, 5, 34}) {
      const int64_t rows = 3, n = 20, k = 35;
      const sbk::LowPrecision& low = table.int8;
      const sbk::PackLayout& layout = table.layout.int8;
      Random random(7);
      Matrix x(rows, k, k, Flush::end), w(n, k, k, Flush::end), y(rows, n, n, Flush::end);
      x.fill(random), w.fill(random);
      x.at(1, at) = value;
      const int64_t units = (k + layout.per - 1) / layout.per, floats = floats_of(layout, units);
      Matrix encoded(rows, floats, floats, Flush::end);
      Quantization quantization(rows, Flush::end);
      low.encode({x.data(), k, encoded.data(), units, quantization.data(), rows, k});
      const sbk::Weight weight{w.data(), sbk::WeightType::float32, n, k, 1};
      Buffer section(sbk::packed_bytes(table, weight, 0, Compute::int8) / 4, Flush::end, 64);
      sbk::pack(table, weight, 0, section.data(), sbk::serial(), Compute::int8);
      low.conv({.x = encoded.data(),
                .ldx = units,
                .panels = reinterpret_cast<const sbk::PackedHeader*>(section.data())->values(),
                .bias = nullptr,
                .residual = nullptr,
                .ldr = 0,
                .y = y.data(),
                .ldy = n,
                .rows = rows,
                .k = k,
                .n = n,
                .activation = Activation::none,
                .x_quantization = quantization.data()});
      for (int64_t c = 0; c < n; c++) {
        CHECK(std::isfinite(y.at(0, c)));
        CHECK(std::isnan(y.at(1, c)));
        CHECK(std::isfinite(y.at(2, c)));
      }
    }
  }
}

// What one value becomes on its way through a 1 x 1 convolution with the weight 1, which both sides of it round.
TEST(range_of_fp16) {
  const sbk::LowPrecision& low = table.float16;
  const float inf = std::numeric_limits<float>::infinity();
  const std::pair<float, float> cases[] = {{65504, 65504},
                                           {65519.996f, 65504},
                                           {65520, inf},
                                           {-65520, -inf},
                                           {3e38f, inf},
                                           {inf, inf},
                                           {-0.0f, -0.0f},
                                           {0x1p-24f, 0x1p-24f},
                                           {0x1p-25f, 0},
                                           {0x1.8p-25f, 0x1p-24f},
                                           {0x1.002p0f, 1},
                                           {0x1.006p0f, 0x1.008p0f},
                                           {0x1.ff8p-15f, 0x1.ff8p-15f}};
  for (const auto& one : cases) {
    const auto value = one.first, want = one.second;  // not bound: clang 14's lambdas capture no bindings
    for (const bool in_weight : {false, true}) {
      const Context where([&] { return text("value=", value, " in_weight=", in_weight); });
      const float x = in_weight ? 1.0f : value, w = in_weight ? value : 1.0f;
      float encoded = 0, y = 0;
      low.encode({.x = &x, .ldx = 1, .y = &encoded, .ldy = 1, .quantization = nullptr, .rows = 1, .k = 1});
      const sbk::Weight weight{&w, sbk::WeightType::float32, 1, 1, 1};
      Buffer section(sbk::packed_bytes(table, weight, 0, Compute::float16) / 4, Flush::end, 64);
      sbk::pack(table, weight, 0, section.data(), sbk::serial(), Compute::float16);
      const auto* header = reinterpret_cast<const sbk::PackedHeader*>(section.data());
      low.conv({.x = &encoded,
                .ldx = 1,
                .panels = header->values(),
                .bias = nullptr,
                .residual = nullptr,
                .ldr = 0,
                .y = &y,
                .ldy = 1,
                .rows = 1,
                .k = 1,
                .n = 1,
                .activation = Activation::none});
      CHECK_EQ(y, want);
    }
  }
  const float nan = std::numeric_limits<float>::quiet_NaN();
  float encoded = 0;
  low.encode({.x = &nan, .ldx = 1, .y = &encoded, .ldy = 1, .quantization = nullptr, .rows = 1, .k = 1});
  CHECK(std::isnan(decoded(table.layout.float16, Compute::float16, &encoded, 0, 0)));
}

}  // namespace
