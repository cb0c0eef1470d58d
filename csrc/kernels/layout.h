// How each tier wants its weights packed: all that ops/packed.h needs to know of a tier. It is known of every tier on
// every machine, so that weights can be packed here for a CPU elsewhere; isa/ asserts that the kernels agree. In an
// anonymous namespace for the reason that panels.h is.
#pragma once
#include <cstdint>

namespace sbk {

// What the multiplications of a convolution are done in. Sums are fp32 (int8: int32; float16: see LowPrecision::chunk
// in table.h), everything else is fp32.
enum class Compute : int32_t { float32, bfloat16, int8, float16 };

constexpr const char* compute_name(Compute compute) {
  constexpr const char* names[] = {"float32", "bfloat16", "int8", "float16"};
  return names[static_cast<int>(compute)];
}

// A unit is `per` neighbours along K, which one instruction multiplies.
struct PackLayout {
  int32_t lanes;         // units, which are columns, in a vector
  int32_t tile_vectors;  // widest panel, in vectors
  int32_t per;           // values in a unit
  int32_t unit_bytes;
  int32_t least;  // int8: the integer that the least value of a row of x is stored as, or kSymmetric
};

// Rows of x are stored with 0 as 0. Elsewhere what is stored has a zero of its own per row (RowQuantization), which
// comes off through the offsets that packing has left for it.
inline constexpr int32_t kSymmetric = INT32_MIN;

struct TierLayout {
  const char* tier;
  PackLayout float32, bfloat16, int8, float16;
};

namespace {

constexpr bool operator==(const PackLayout& a, const PackLayout& b) {
  return a.lanes == b.lanes && a.tile_vectors == b.tile_vectors && a.per == b.per && a.unit_bytes == b.unit_bytes &&
         a.least == b.least;
}

constexpr bool operator==(const TierLayout& a, const TierLayout& b) {
  return a.float32 == b.float32 && a.bfloat16 == b.bfloat16 && a.int8 == b.int8 && a.float16 == b.float16;
}

constexpr const PackLayout& layout_of(const TierLayout& tier, Compute compute) {
  switch (compute) {
    case Compute::bfloat16:
      return tier.bfloat16;
    case Compute::int8:
      return tier.int8;
    case Compute::float16:
      return tier.float16;
    default:
      return tier.float32;
  }
}

// Values of one kind, 32 bits each: fp32, and every compute that a tier has no instruction for.
constexpr PackLayout single_values(int32_t lanes, int32_t tile_vectors) {
  return {lanes, tile_vectors, 1, 4, kSymmetric};
}
// 32 bits of `per` values.
constexpr PackLayout joint_values(int32_t lanes, int32_t tile_vectors, int32_t per, int32_t least = kSymmetric) {
  return {lanes, tile_vectors, per, 4, least};
}

constexpr PackLayout kOne = single_values(1, 4), kAvx2 = single_values(8, 2), kAvx512 = single_values(16, 3),
                     kNeon = single_values(4, 4), kNeonHalves = {8, 4, 1, 2, kSymmetric};
// 64 bits of `per` values, for products of 2 x per by per x 2 matrices.
constexpr PackLayout neon_matrices(int32_t per, int32_t least = kSymmetric) { return {4, 4, per, 8, least}; }

// Tiers that multiply alike have the same layout: one file of packed weights serves all phones of a kind.
constexpr TierLayout kTierLayouts[] = {
    {"scalar", kOne, kOne, kOne, kOne},
    {"avx2", kAvx2, kAvx2, joint_values(8, 2, 2), kAvx2},
    {"avx512", kAvx512, kAvx512, joint_values(16, 3, 2), kAvx512},
    {"avx512vnni", kAvx512, kAvx512, joint_values(16, 3, 4, 0), kAvx512},
    {"avx512bf16", kAvx512, joint_values(16, 3, 2), joint_values(16, 3, 4, 0), kAvx512},
    {"neon", kNeon, kNeon, kNeon, kNeon},
    {"neonfp16", kNeon, kNeon, kNeon, kNeonHalves},
    {"neondot", kNeon, kNeon, joint_values(4, 4, 4, -127), kNeonHalves},
    {"neoni8mm", kNeon, neon_matrices(4), neon_matrices(8, -127), kNeonHalves},
};

constexpr bool same_name(const char* a, const char* b) {
  while (*a != '\0' && *a == *b) a++, b++;
  return *a == *b;
}

// Null for a tier that does not exist.
constexpr const TierLayout* layout_named(const char* tier) {
  for (const TierLayout& layout : kTierLayouts) {
    if (same_name(layout.tier, tier)) return &layout;
  }
  return nullptr;
}

}  // namespace
}  // namespace sbk
