// ops/packed.h: the layout equation by index, conversion of weights, and what find_section accepts.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "isa/layouts.h"
#include "kernels/rounding.h"
#include "ops/packed.h"
#include "support/check.h"
#include "support/guarded.h"
#include "support/shapes.h"
#include "support/threads.h"

namespace {

using sbk::Compute;
using sbk::PackedHeader;
using sbk::Weight;
using sbk::WeightType;
using sbk::operator==;
using namespace test;

// A tier of any width in fp32, whatever there is.
sbk::TierLayout layout(int32_t lanes, int32_t tile_vectors) {
  return {.tier = "layout only",
          .float32 = {lanes, tile_vectors, 1, 4, sbk::kSymmetric},
          .bfloat16 = {},
          .int8 = {},
          .float16 = {}};
}

struct Section {
  Buffer buffer;

  Section(const sbk::TierLayout& tier, const Weight& w, int64_t heads, const sbk::Parallel& parallel, Flush flush,
          Compute compute = Compute::float32)
      : buffer(sbk::packed_bytes(tier, w, heads, compute) / static_cast<int64_t>(sizeof(float)), flush, 64) {
    sbk::pack(tier, w, heads, buffer.data(), parallel, compute);
  }
  Section(const sbk::KernelTable& table, const Weight& w, int64_t heads, const sbk::Parallel& parallel, Flush flush,
          Compute compute = Compute::float32)
      : Section(table.layout, w, heads, parallel, flush, compute) {}
  const PackedHeader& header() const { return *reinterpret_cast<const PackedHeader*>(buffer.data()); }
};

std::vector<float> numbered(int64_t n) {
  std::vector<float> w(n);
  for (int64_t i = 0; i < n; i++) w[i] = static_cast<float>(i + 1);
  return w;
}

// Widths of the panels of `vectors` vectors: dealt out one by one, so that they are even and wider ones come first.
std::vector<int64_t> panel_widths(int64_t vectors, int64_t widest) {
  std::vector<int64_t> widths((vectors + widest - 1) / widest);
  for (int64_t v = 0; v < vectors; v++) widths[v % static_cast<int64_t>(widths.size())]++;
  return widths;
}

// The equation of ops/packed.h, read literally.
void check_layout(const sbk::TierLayout& tier, Compute compute, int64_t n, int64_t k, int64_t groups, int64_t heads,
                  Flush flush) {
  const sbk::PackLayout& t = sbk::layout_of(tier, compute);
  const Context where([&] {
    return text(tier.tier, " compute=", static_cast<int>(compute), " lanes=", t.lanes, " tile_vectors=", t.tile_vectors,
                " n=", n, " k=", k, " groups=", groups, " heads=", heads);
  });
  std::vector<float> w = numbered(n * k);
  // Every compute but int8 has these exactly.
  for (float& x : w) x = compute == Compute::float32 ? x : static_cast<float>(static_cast<int64_t>(x) * 7 % 251) - 125;
  const Weight weight{w.data(), WeightType::float32, n, k, groups};
  const Section section(tier, weight, heads, sbk::serial(), flush, compute);
  const PackedHeader& header = section.header();
  const int64_t block = header.block;
  CHECK_EQ(block, sbk::block_columns(weight, heads));
  CHECK_EQ(n / groups % block, 0);
  if (heads != 0) {
    CHECK_EQ(n / heads % block, 0);
  } else if (block != n / groups) {  // a piece of a group: whole panels on every tier
    CHECK(block <= 192 && block % 48 == 0);
  }
  CHECK(header.n == n && header.k == k && header.groups == groups && header.is(compute));
  CHECK(header.lanes == t.lanes && header.tile_vectors == t.tile_vectors);
  CHECK(header.per == t.per && header.unit_bytes == t.unit_bytes);
  CHECK_EQ(header.has_offsets, t.least != sbk::kSymmetric);
  CHECK_EQ(header.bytes, section.buffer.size() * static_cast<int64_t>(sizeof(float)));
  CHECK_EQ(header.bytes % 64, 0);

  const int64_t vectors = (block + t.lanes - 1) / t.lanes, units = (k + t.per - 1) / t.per, padded = vectors * t.lanes;
  const int64_t prefix = compute == Compute::int8 ? 8 * padded : 0;
  bool equal = true;
  for (int64_t b = 0; b < n / block; b++) {
    const char* at = reinterpret_cast<const char*>(header.values()) + b * (prefix + padded * units * t.unit_bytes);
    CHECK_EQ(static_cast<const void*>(at), header.block_values(b));
    const auto* offset = reinterpret_cast<const int32_t*>(at);
    const auto* scale = reinterpret_cast<const float*>(at) + padded;
    std::vector<int64_t> sums(padded);
    int64_t first = 0;
    for (const int64_t width : panel_widths(vectors, t.tile_vectors)) {
      CHECK(width >= 1 && width <= t.tile_vectors);
      for (int64_t step = 0; step < units * t.per; step++) {
        for (int64_t lane = 0; lane < width * t.lanes; lane++) {
          const int64_t column = first * t.lanes + lane;
          const int64_t unit = first * t.lanes * units + step / t.per * width * t.lanes + lane;
          const int value_bytes = t.unit_bytes / t.per;
          uint32_t bits = 0;
          std::memcpy(&bits, at + prefix + unit * t.unit_bytes + step % t.per * value_bytes, value_bytes);
          const float want = column < block && step < k ? w[(b * block + column) * k + step] : 0.0f;
          if (compute == Compute::int8) {
            const int shift = 32 - 8 * value_bytes;
            const int32_t q = static_cast<int32_t>(bits << shift) >> shift;
            sums[column] += q;
            equal = equal && std::fabs(static_cast<float>(q) * scale[column] - want) <= 0.501f * scale[column];
          } else if (compute == Compute::float16 && value_bytes == 2) {
            equal = equal && sbk::fp16_to_float(static_cast<uint16_t>(bits)) == want;
          } else {
            equal = equal && std::bit_cast<float>(value_bytes == 2 ? bits << 16 : bits) == want;
          }
        }
      }
      first += width;
    }
    CHECK_EQ(first, vectors);
    for (int64_t c = 0; compute == Compute::int8 && c < padded; c++) {
      equal = equal && offset[c] == (header.has_offsets ? -sums[c] : 0);
    }
  }
  CHECK(equal);
}

TEST(layout_is_the_equation) {
  for (const int32_t lanes : {1, 4, 8, 16, 32}) {
    for (int32_t tile_vectors = 1; tile_vectors <= 5; tile_vectors++) {
      const sbk::TierLayout t = layout(lanes, tile_vectors);
      for (const int64_t n : column_sizes(t.float32)) {
        for (const int64_t k : {1, 3, 8}) {
          check_layout(t, Compute::float32, n, k, 1, 0, n % 2 ? Flush::start : Flush::end);
        }
      }
      // Groups and heads: equal, heads in groups, groups in heads, crossing each other.
      for (const auto& [n, groups, heads] : {std::tuple{24, 4, 0},
                                             {24, 4, 4},
                                             {24, 2, 6},
                                             {24, 6, 2},
                                             {24, 4, 6},
                                             {60, 5, 4},
                                             {768, 4, 12},
                                             {768, 1, 0},
                                             {3072, 4, 0},
                                             {400, 1, 0},
                                             {1000, 1, 0},
                                             {30, 30, 1},
                                             {30, 1, 30}}) {
        check_layout(t, Compute::float32, n, 5, groups, heads, Flush::end);
      }
    }
  }
}

// Every tier, whatever this machine can run.
TEST(every_tier_can_be_packed_for) {
  for (const sbk::TierLayout& tier : sbk::kTierLayouts) {
    const sbk::TierLayout* found = sbk::layout_named(tier.tier);
    CHECK(found != nullptr && std::string(found->tier) == tier.tier && *found == tier);
    for (const Compute compute : {Compute::float32, Compute::bfloat16, Compute::int8, Compute::float16}) {
      for (const int64_t n : column_sizes(sbk::layout_of(tier, compute))) {
        for (const int64_t k : {1, 2, 3, 4, 5, 8, 33}) {
          check_layout(tier, compute, n, k, 1, 0, n % 2 ? Flush::start : Flush::end);
        }
      }
      check_layout(tier, compute, 24, 5, 4, 6, Flush::end);
      check_layout(tier, compute, 768, 192, 4, 12, Flush::end);
    }
  }
  CHECK(sbk::layout_named("nonsense") == nullptr && sbk::layout_named("") == nullptr);
}

TEST(tables_are_packed_for_as_their_tier_says) {
  const sbk::TierLayout* tier = sbk::layout_named(table.isa);
  CHECK(tier != nullptr);
  const std::vector<float> w = numbered(96 * 7);
  const Weight weight{w.data(), WeightType::float32, 96, 7, 2};
  for (const Compute compute : {Compute::float32, Compute::bfloat16, Compute::int8, Compute::float16}) {
    const Section by_name(*tier, weight, 0, sbk::serial(), Flush::end, compute);
    const Section by_table(table, weight, 0, sbk::serial(), Flush::end, compute);
    CHECK(std::memcmp(by_name.buffer.data(), by_table.buffer.data(), by_table.header().bytes) == 0);
  }
  CHECK(table.layout.float32.lanes == table.lanes && table.layout.float32.tile_vectors == table.tile_vectors);
}

TEST(wide_groups_are_cut) {
  const auto block = [](int64_t n, int64_t groups) {
    return sbk::block_columns({nullptr, WeightType::float32, n, 8, groups}, 0);
  };
  CHECK_EQ(block(768, 1), 192);
  CHECK_EQ(block(3072, 4), 192);
  CHECK_EQ(block(768, 4), 192);
  CHECK_EQ(block(384, 1), 192);
  CHECK_EQ(block(1024, 1), 1024);  // no divisor is a multiple of 48
  CHECK_EQ(block(336, 1), 48);
  CHECK_EQ(block(288, 1), 144);
  CHECK_EQ(block(240, 1), 48);
  CHECK_EQ(block(64, 1), 64);
}

TEST(any_numbers_may_be_a_shape) {
  constexpr int64_t most = sbk::kMostWeightValues, huge = std::numeric_limits<int64_t>::max();
  CHECK(sbk::is_weight_shape(1, 1, 1) && sbk::is_weight_shape(most, 1, most) && sbk::is_weight_shape(1, most, 1));
  for (const auto& [n, k, groups] : {std::tuple{int64_t{0}, int64_t{1}, int64_t{1}},
                                     {1, 0, 1},
                                     {1, 1, 0},
                                     {-4, 4, 1},
                                     {4, -4, 1},
                                     {4, 4, -1},
                                     {4, 4, 3},
                                     {most + 1, 1, 1},
                                     {2, most / 2 + 1, 1},
                                     {int64_t{1} << 32, int64_t{1} << 32, 1},
                                     {huge, huge, huge}}) {
    CHECK(!sbk::is_weight_shape(n, k, groups));
  }
  // The largest ones, on every tier and as much padding as there is: at once, and in 64 bits.
  for (const sbk::TierLayout& tier : sbk::kTierLayouts) {
    for (const Compute compute : {Compute::float32, Compute::bfloat16, Compute::int8, Compute::float16}) {
      for (const int64_t n : {int64_t{1}, int64_t{1} << 24, most}) {
        for (const int64_t heads : {int64_t{0}, n}) {
          const int64_t bytes = sbk::packed_bytes(tier, {nullptr, WeightType::float32, n, most / n, 1}, heads, compute);
          CHECK(bytes >= most && bytes / 257 <= most && bytes % 64 == 0);
        }
      }
    }
  }
}

TEST(sections_of_attention_have_one_compute) {
  const std::vector<float> w = numbered(24 * 8);
  const Weight weight{w.data(), WeightType::float32, 24, 8, 2};
  const Compute computes[] = {Compute::float32, Compute::bfloat16, Compute::int8, Compute::float16};
  for (const int64_t heads : {0, 4}) {
    for (const Compute first : computes) {
      for (const Compute second : computes) {
        const int64_t one = sbk::packed_bytes(table, weight, heads, first);
        const int64_t bytes = one + sbk::packed_bytes(table, weight, heads, second);
        Buffer buffer(bytes / static_cast<int64_t>(sizeof(float)), Flush::end, 64);
        sbk::pack(table, weight, heads, buffer.data(), sbk::serial(), first);
        sbk::pack(table, weight, heads, reinterpret_cast<char*>(buffer.data()) + one, sbk::serial(), second);
        std::string error;
        const auto found = sbk::find_sections(table, {weight, weight}, heads, buffer.data(), bytes, &error);
        const bool fits = heads == 0 || first == second;
        CHECK_EQ(found.size(), fits ? 2u : 0u);
        CHECK_EQ(error.find("packed holds different dtypes") == 0, !fits);
        CHECK(sbk::find_sections(table, {weight, weight}, heads, buffer.data(), bytes - 4, &error).empty());
      }
    }
  }
}

TEST(threads_pack_the_same) {
  const std::vector<float> w = numbered(96 * 7);
  const Weight weight{w.data(), WeightType::float32, 96, 7, 2};
  const Section serial(table, weight, 0, sbk::serial(), Flush::end);
  for (const int64_t count : {2, 3}) {
    Threads threads(count);
    const Section parallel(table, weight, 0, threads.hook(), Flush::end);
    CHECK(std::memcmp(serial.buffer.data(), parallel.buffer.data(), serial.header().bytes) == 0);
  }
}

// Packs [n][k] values, unpacks them, and packs what came out: the same section again.
void check_unpack(const sbk::KernelTable& table, int64_t n, int64_t k, int64_t groups, int64_t heads, Compute compute) {
  const Context where([&] {
    return text("n=", n, " k=", k, " groups=", groups, " heads=", heads, " compute=", static_cast<int>(compute));
  });
  Random random(static_cast<uint64_t>(n * 1009 + k));
  std::vector<float> w(n * k);
  for (float& x : w) x = random.uniform();
  std::fill_n(w.begin(), k, 0.0f);                   // a column of zeros
  if (n > 1) std::fill_n(w.begin() + k, k, 1e-44f);  // one that is zero in int8
  if (n > 2) std::fill_n(w.begin() + 2 * k, k, -3e38f);
  const Weight weight{w.data(), WeightType::float32, n, k, groups};
  Section section(table, weight, heads, sbk::serial(), Flush::end, compute);
  section.buffer.freeze();

  Threads threads(2);
  std::vector<float> values(n * k);
  if (compute == Compute::int8) {
    Buffer q((n * k + 3) / 4, Flush::start), scale(n, Flush::end);
    sbk::unpack(section.header(), q.data(), scale.data(), threads.hook());
    for (int64_t i = 0; i < n * k; i++) {
      const float s = scale.data()[i / k];
      const auto value = reinterpret_cast<const int8_t*>(q.data())[i];
      values[i] = static_cast<float>(value) * s;
      CHECK_EQ(static_cast<double>(values[i]), double{s} * value);  // exact
      CHECK(std::fabs(w[i] - values[i]) <= 0.5001f * s || (s == 0 && std::fabs(w[i]) < 1e-36f));
    }
  } else {
    Buffer floats(n * k, Flush::end);
    const bool is_fp16 = compute == Compute::float16;
    sbk::unpack(section.header(), floats.data(), nullptr, threads.hook());
    std::copy_n(floats.data(), n * k, values.begin());
    for (int64_t i = 0; i < n * k; i++) {
      const bool exact = std::bit_cast<uint32_t>(values[i]) == std::bit_cast<uint32_t>(w[i]);
      const float rounding = is_fp16 ? 0x1p-11f * std::fabs(w[i]) + 0x1p-25f : 0x1p-8f * std::fabs(w[i]) + 1e-40f;
      const bool overflows = is_fp16 && std::fabs(w[i]) >= 65520 && values[i] == std::copysign(INFINITY, w[i]);
      CHECK(compute == Compute::float32 ? exact : overflows || std::fabs(values[i] - w[i]) <= rounding);
    }
  }
  const Weight again{values.data(), WeightType::float32, n, k, groups};
  const Section repacked(table, again, heads, sbk::serial(), Flush::end, compute);
  const auto bytes = static_cast<size_t>(section.header().bytes) - sizeof(PackedHeader);
  CHECK(std::memcmp(section.header().values(), repacked.header().values(), bytes) == 0);
}

TEST(unpacking_is_the_inverse) {
  for (const Compute compute : {Compute::float32, Compute::bfloat16, Compute::int8, Compute::float16}) {
    for (const int64_t n : column_sizes(table)) {
      for (const int64_t k : {1, 2, 3, 4, 5, 8, 33}) check_unpack(table, n, k, 1, 0, compute);
    }
    for (const auto& [n, groups, heads] : {std::tuple{24, 4, 0}, {24, 4, 6}, {60, 5, 4}, {768, 4, 12}, {30, 30, 1}}) {
      check_unpack(table, n, 19, groups, heads, compute);
    }
  }
}

// All 65536 values of a 16-bit type, decoded here by arithmetic: sign, exponent of `bits` bits, mantissa.
void check_all_values(const sbk::KernelTable& table, WeightType type, int exponent_bits) {
  const int mantissa_bits = 15 - exponent_bits, bias = (1 << (exponent_bits - 1)) - 1;
  std::vector<uint16_t> w(65536);
  for (int i = 0; i < 65536; i++) w[i] = static_cast<uint16_t>(i);
  const Weight weight{w.data(), type, 1, 65536, 1};
  const Section section(table, weight, 0, sbk::serial(), Flush::end);
  for (int64_t i = 0; i < 65536; i++) {
    const float got = std::bit_cast<float>(section.header().values()[i * table.lanes]);
    const int exponent = static_cast<int>(i >> mantissa_bits) & ((1 << exponent_bits) - 1);
    const int mantissa = static_cast<int>(i) & ((1 << mantissa_bits) - 1);
    const double sign = i >> 15 ? -1 : 1, fraction = std::ldexp(mantissa, -mantissa_bits);
    const Context where([&] { return text("bits ", i, " become ", got); });
    if (exponent == (1 << exponent_bits) - 1 && mantissa != 0) {
      CHECK(std::isnan(got));
    } else {
      const double want = exponent == (1 << exponent_bits) - 1 ? sign * INFINITY
                          : exponent == 0                      ? sign * std::ldexp(fraction, 1 - bias)
                                                               : sign * std::ldexp(1 + fraction, exponent - bias);
      CHECK(static_cast<double>(got) == want && std::signbit(got) == std::signbit(want));
    }
  }
}

TEST(float16_is_exact) { check_all_values(table, WeightType::float16, 5); }
TEST(bfloat16_is_exact) { check_all_values(table, WeightType::bfloat16, 8); }

TEST(special_weights_stay) {
  const float w[] = {INFINITY, -INFINITY, std::numeric_limits<float>::quiet_NaN(), -0.0f, 1e-42f, 3.4e38f};
  const Weight weight{w, WeightType::float32, 1, 6, 1};
  const Section section(table, weight, 0, sbk::serial(), Flush::end);
  for (int64_t i = 0; i < 6; i++) {
    CHECK_EQ(std::bit_cast<uint32_t>(section.header().values()[i * table.lanes]), std::bit_cast<uint32_t>(w[i]));
  }
}

// It samples, so one changed value may escape; any change of all values does not, be it one bit each.
TEST(fingerprint_follows_the_values) {
  for (const auto& [n, k] : {std::pair{1, 1}, {1, 7}, {3, 5}, {48, 1}, {7, 7}, {64, 48}, {192, 192}, {768, 768}}) {
    const Context where([&, n = n, k = k] { return text("n=", n, " k=", k); });
    Random random(11);
    std::vector<float> w(n * k);
    for (float& x : w) x = random.uniform();
    const std::vector<float> copy = w;
    const auto print = [n = n, k = k](const std::vector<float>& v, WeightType type = WeightType::float32) {
      return sbk::fingerprint({v.data(), type, n, k, 1});
    };
    const uint64_t before = print(w);
    CHECK_EQ(before, print(copy));
    for (float& x : w) x = std::bit_cast<float>(std::bit_cast<uint32_t>(x) ^ 1u);
    CHECK(print(w) != before);
    for (size_t i = 0; i < w.size(); i++) w[i] = 0.999f * copy[i];
    CHECK(print(w) != before);
    for (size_t i = 0; i < w.size(); i++) w[i] = -copy[i];
    CHECK(print(w) != before);
    CHECK(print(copy, WeightType::float16) != print(copy, WeightType::bfloat16));
  }
}

TEST(sections_follow_each_other) {
  const std::vector<float> w = numbered(400);
  const Weight first{w.data(), WeightType::float32, 20, 7, 2}, second{w.data(), WeightType::float32, 6, 5, 1};
  const int64_t bytes = sbk::packed_bytes(table, first, 5) + sbk::packed_bytes(table, second, 0);
  Buffer buffer(bytes / 4, Flush::end, 64);
  char* at = reinterpret_cast<char*>(buffer.data());
  sbk::pack(table, first, 5, at, sbk::serial());
  sbk::pack(table, second, 0, at + sbk::packed_bytes(table, first, 5), sbk::serial());
  buffer.freeze();
  int64_t offset = 0;
  std::string error;
  const PackedHeader* a = sbk::find_section(table.layout, first, 5, at, bytes, &offset, &error);
  CHECK(a != nullptr && a->n == 20 && offset == sbk::packed_bytes(table, first, 5));
  const PackedHeader* b = sbk::find_section(table.layout, second, 0, at, bytes, &offset, &error);
  CHECK(b != nullptr && b->n == 6 && offset == bytes);
  CHECK_EQ(error, "");
  // Behind the last one, and in the wrong order.
  CHECK(sbk::find_section(table.layout, second, 0, at, bytes, &offset, &error) == nullptr && !error.empty());
  offset = 0;
  CHECK(sbk::find_section(table.layout, second, 0, at, bytes, &offset, &error) == nullptr && offset == 0);
}

// Whether find_section takes `buffer` for `w`; when it does not it must say why and leave the offset alone.
bool accepts(const sbk::KernelTable& t, const Weight& w, int64_t heads, const void* buffer, int64_t bytes) {
  int64_t offset = 0;
  std::string error;
  const bool found = sbk::find_section(t.layout, w, heads, buffer, bytes, &offset, &error) != nullptr;
  CHECK_EQ(found, error.empty());
  CHECK_EQ(offset, found ? bytes : 0);
  return found;
}

TEST(truncated_buffers_are_rejected) {
  const std::vector<float> w = numbered(60);
  const Weight weight{w.data(), WeightType::float32, 12, 5, 2};
  const Section whole(table, weight, 0, sbk::serial(), Flush::end);
  CHECK(accepts(table, weight, 0, whole.buffer.data(), whole.header().bytes));
  for (int64_t bytes = 0; bytes < whole.header().bytes; bytes += bytes < 80 ? 4 : 64) {
    const Context where([&] { return text("bytes=", bytes); });
    // The rest is not only forbidden by `bytes`: behind it there is a guard page, where the alignment of 64 allows.
    Buffer part(bytes / 4, Flush::end, 64);
    std::memcpy(part.data(), whole.buffer.data(), bytes);
    CHECK(!accepts(table, weight, 0, part.data(), bytes));
  }
}

TEST(foreign_buffers_are_rejected) {
  const std::vector<float> w = numbered(60);
  const Weight weight{w.data(), WeightType::float32, 12, 5, 2};
  const Section good(table, weight, 3, sbk::serial(), Flush::end);
  const int64_t bytes = good.header().bytes;
  CHECK(accepts(table, weight, 3, good.buffer.data(), bytes));

  // Another tier; another shape; other heads where the blocks differ.
  for (const sbk::KernelTable* other : sbk::available_tables()) {
    // Tiers with the same layout may share what is packed.
    const bool same = other->layout.float32 == table.layout.float32;
    CHECK_EQ(accepts(*other, weight, 3, good.buffer.data(), bytes), same);
  }
  const Weight shapes[] = {{w.data(), WeightType::float32, 10, 5, 2},
                           {w.data(), WeightType::float32, 12, 4, 2},
                           {w.data(), WeightType::float32, 12, 5, 1},
                           {w.data(), WeightType::float32, 5, 12, 1}};
  for (const Weight& shape : shapes) CHECK(!accepts(table, shape, 0, good.buffer.data(), bytes));
  CHECK(!accepts(table, weight, 0, good.buffer.data(), bytes));

  // Every field of the header damaged in turn, bit by bit; the fingerprint is not its business, and
  // another compute may be as good.
  Buffer damaged(bytes / 4, Flush::end, 64);
  auto* raw = reinterpret_cast<unsigned char*>(damaged.data());
  for (size_t byte = 0; byte < sizeof(PackedHeader); byte++) {
    if (byte == offsetof(PackedHeader, compute)) continue;
    if (byte >= offsetof(PackedHeader, fingerprint) && byte < offsetof(PackedHeader, bytes)) continue;
    for (int bit = 0; bit < 8; bit++) {
      const Context where([&] { return text("byte ", byte, " bit ", bit); });
      std::memcpy(raw, good.buffer.data(), bytes);
      raw[byte] = static_cast<unsigned char>(raw[byte] ^ 1u << bit);
      CHECK(!accepts(table, weight, 3, raw, bytes));
    }
  }
  Random random(12);
  for (int i = 0; i < 200; i++) {
    for (int64_t b = 0; b < bytes; b++) raw[b] = static_cast<unsigned char>(random.bits());
    CHECK(!accepts(table, weight, 3, raw, bytes));
  }
}

}  // namespace
