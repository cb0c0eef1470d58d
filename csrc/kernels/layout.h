// How a tier wants its weights packed: all that ops/packed.h needs to know of a tier. Those of all tiers are in
// isa/layouts.h. In an anonymous namespace for the reason that panels.h is.
#pragma once
#include <cstdint>

namespace sbk {

// Floats that a row of scratch has more than its values need: a cache line. Without it the rows of a tile, often a
// power of two apart, would share a few sets of L1.
inline constexpr int64_t kRowGap = 16;

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

}  // namespace
}  // namespace sbk
