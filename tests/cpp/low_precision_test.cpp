// LowPrecision::encode and LowPrecision::conv, bf16 and int8, against the oracle on the rounded operands: what a low
// precision convolution may differ in is the rounding of its operands, which is exact arithmetic here, and nothing
// else.
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "check.h"
#include "core/packed.h"
#include "guarded.h"
#include "reference.h"
#include "shapes.h"

namespace {

using sbk::Activation;
using sbk::Compute;
using namespace test;

constexpr Compute kComputes[] = {Compute::bfloat16, Compute::int8};

const sbk::LowPrecision& kernels(const sbk::KernelTable& table, Compute compute) {
  return compute == Compute::bfloat16 ? table.bfloat16 : table.int8;
}

float nearest_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (x != x) return x;
  bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
  std::memcpy(&x, &bits, sizeof x);
  return x;
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
      values.push_back(compute == Compute::int8 ? std::nearbyint(x[i] * inverse) : nearest_bf16(x[i]));
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

// A value out of encoded units.
double decoded(const sbk::LowPrecision& low, Compute compute, const float* units, int64_t i, int32_t zero) {
  const char* p = reinterpret_cast<const char*>(units);
  if (compute == Compute::bfloat16) {
    uint32_t bits = 0;
    std::memcpy(low.per == 1 ? reinterpret_cast<char*>(&bits) : reinterpret_cast<char*>(&bits) + 2, p + i * 4 / low.per,
                4 / low.per);
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
  }
  if (low.per == 1) {
    int32_t q;
    std::memcpy(&q, p + 4 * i, sizeof q);
    return q - zero;
  }
  if (low.per == 2) {
    int16_t q;
    std::memcpy(&q, p + 2 * i, sizeof q);
    return q - zero;
  }
  const uint8_t q = static_cast<uint8_t>(p[i]);
  return q - zero;
}

TEST(encoding_rounds_to_nearest) {
  for (const Compute compute : kComputes) {
    const sbk::LowPrecision& low = kernels(table, compute);
    for (const int64_t k : {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 67}) {
      for (const Flush flush : kBothEnds) {
        const Context where([&] { return text("compute=", static_cast<int>(compute), " k=", k); });
        Random random(static_cast<uint64_t>(k));
        const int64_t rows = 6, units = (k + low.per - 1) / low.per;
        Matrix x(rows, k, k + 2, flush), y(rows, units, units + 1, flush);
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
                    .ldy = y.stride(),
                    .quantization = compute == Compute::int8 ? quantization.data() : nullptr,
                    .rows = rows,
                    .k = k});
        CHECK(y.gaps_untouched());
        for (int64_t r = 0; r < rows; r++) {
          const Rounded wanted(x.data() + r * x.stride(), k, compute, Role::activation);
          int32_t zero = 0;
          if (compute == Compute::int8) {
            zero = quantization.data()[r].zero;
            CHECK(low.is_unsigned || zero == 0);
            CHECK(std::fabs(quantization.data()[r].scale - wanted.scale) <= 2 * kUnit * wanted.scale);
          }
          for (int64_t i = 0; i < k; i++) {
            CHECK_EQ(decoded(low, compute, y.data() + r * y.stride(), i, zero), wanted.values[static_cast<size_t>(i)]);
          }
          if (compute == Compute::bfloat16) {  // int8 weights are 0 behind k, whatever x is there
            for (int64_t i = k; i < units * low.per; i++) {
              CHECK_EQ(decoded(low, compute, y.data() + r * y.stride(), i, zero), 0.0);
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
  const int64_t units = (c.k + low.per - 1) / low.per;
  Matrix x(c.rows, c.k, c.k, c.flush), w(c.n, c.k, c.k, c.flush), bias(1, c.n, c.n, c.flush);
  Matrix residual(c.rows, c.n, c.n + 1, c.flush), y(c.rows, c.n, c.n + 3, c.flush);
  Matrix encoded(c.rows, units, units + 2, c.flush);
  x.fill(random).freeze(), w.fill(random).freeze(), bias.fill(random).freeze(), residual.fill(random).freeze();
  Quantization quantization(c.rows, c.flush);
  low.encode({.x = x.data(),
              .ldx = x.stride(),
              .y = encoded.data(),
              .ldy = encoded.stride(),
              .quantization = quantization.data(),
              .rows = c.rows,
              .k = c.k});
  encoded.freeze(), quantization.freeze();

  const sbk::Weight weight{w.data(), sbk::WeightType::float32, c.n, c.k, 1};
  // One head: all columns in one block.
  Buffer section(sbk::packed_bytes(table, weight, 1, compute) / 4, Flush::end, 64);
  sbk::pack(table, weight, 1, section.data(), sbk::serial(), compute);
  const auto* header = reinterpret_cast<const sbk::PackedHeader*>(section.data());
  // Exactly the units of the block, flush with the guard page.
  Buffer panels(header->block_size(), c.flush);
  std::memcpy(panels.data(), header->values(), static_cast<size_t>(panels.size()) * sizeof(float));
  panels.freeze();

  low.conv({.x = encoded.data(),
            .ldx = encoded.stride(),
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
      double sum = 0, size = 0;
      for (size_t i = 0; i < a.values.size(); i++) {
        sum += a.values[i] * b.values[i], size += std::fabs(a.values[i] * b.values[i]);
      }
      // int8: the sum is exact; rounded are the scales (two each), their product, the sum as a float and the result.
      const double roundings = compute == Compute::int8 ? 8 : static_cast<double>(c.k) + 2;
      const double scales = a.scale * b.scale, added = c.bias ? bias.at(0, col) : 0;
      Real value{sum * scales + added, roundings * kUnit * (size * scales + std::fabs(added))};
      if (c.residual) {
        value.value += residual.at(r, col),
            value.error += kUnit * (std::fabs(value.value) + std::fabs(residual.at(r, col)));
      }
      expected.at(r, col) = activate(value, c.activation);
    }
  }
  check_close(y, expected);
}

TEST(remainders_in_every_dimension) {
  constexpr Activation kActivations[] = {Activation::none, Activation::gelu, Activation::none, Activation::relu};
  size_t next = 0;
  for (const Compute compute : kComputes) {
    for (const int64_t rows : row_sizes(table)) {
      for (const int64_t n : column_sizes(table)) {
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
      Random random(7);
      Matrix x(rows, k, k, Flush::end), w(n, k, k, Flush::end), y(rows, n, n, Flush::end);
      x.fill(random), w.fill(random);
      x.at(1, at) = value;
      const int64_t units = (k + low.per - 1) / low.per;
      Matrix encoded(rows, units, units, Flush::end);
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

}  // namespace
