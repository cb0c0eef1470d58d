// The layouts of all tiers, on every machine: weights can be packed here for a CPU elsewhere. isa/instantiate.h asserts
// that the kernels agree. In an anonymous namespace for the reason that kernels/panels.h is.
#pragma once
#include "kernels/layout.h"

namespace sbk {
namespace {

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

constexpr TierLayout kTierLayouts[] = {
#define SBK_TIER_LAYOUT(name, float32, bfloat16, int8, float16) {#name, float32, bfloat16, int8, float16},
#include "isa/tiers.inc"
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
