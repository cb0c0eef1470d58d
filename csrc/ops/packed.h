// Packed weights: the layout that the kernels read.
//
// A buffer holds one section per weight: a 64-byte header, then the values, padded to 64 bytes. The weight [n][k] of a
// grouped conv has n / block blocks of `block` output columns; no block crosses a group. Within a block, vectors of
// `lanes` columns form panels of `width` vectors (kernels/panels.h). A unit is `per` values along K (1 fp32, 2 bf16,
// ...; zero behind K) in `unit_bytes` bytes, the first value lowest. How wide all of these are is the tier's
// (kernels/layout.h) and is in the header. With  first = the panel's first vector  and  units = ceil(k / per):
//
//   unit[b][first * lanes * units  +  step * width * lanes  +  lane]
//       =  w[b * block + first * lanes + lane][per * step, ..., per * step + per - 1]
//
//        step 0: |column 0 .. width*lanes-1|  step 1: |...|  ...        lanes behind the block's last column are 0
//
// so that a tile reads B front to back. In int8 a block begins with, for each of its columns and zeros up to whole
// vectors, int32 offset[column] = -sum_k q[column][k]  (0 where rows of x have no zero) and then  float scale[column] =
// max_k |w[column][k]| / 127, rounded up to 16 bits; q = round(w / scale). q * scale is exact then, so that quantizing
// what unpack() gives makes the same q and scale again.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/table.h"
#include "ops/values.h"
#include "runtime/parallel.h"

namespace sbk {

// A weight as the user has it: row-major [n][k], k = input channels per group.
struct Weight {
  const void* data;
  WeightType type;
  int64_t n, k, groups;
};

// The most values of a weight. What is computed from the shape of such a weight, bytes of the most padded section
// included (256 for a value), fits 64 bits.
inline constexpr int64_t kMostWeightValues = int64_t{1} << 48;

// Whether n, k and groups, which may be any numbers, are the shape of a weight. All below needs one that is.
bool is_weight_shape(int64_t n, int64_t k, int64_t groups);

struct alignas(64) PackedHeader {
  char magic[4];  // "SBKP"
  uint16_t version;
  uint16_t lanes;
  uint16_t tile_vectors;
  uint16_t compute;  // Compute
  uint16_t per;
  uint8_t unit_bytes;
  uint8_t has_offsets;  // int8: of columns, for the zeros of rows
  int64_t n, k, groups, block;
  uint64_t fingerprint;  // of a sample of the values packed
  int64_t bytes;         // of the section, header included

  const int32_t* values() const { return reinterpret_cast<const int32_t*>(this + 1); }
  bool is(Compute c) const { return compute == static_cast<uint16_t>(c); }
  int64_t units() const { return (k + per - 1) / per; }
  int64_t group_columns() const { return n / groups; }
  // Columns of one block with those that fill up its last vector.
  int64_t padded_block() const { return (block + lanes - 1) / lanes * lanes; }
  // Of the offsets and scales of one block, and of all of it.
  int64_t prefix_bytes() const { return is(Compute::int8) ? padded_block() * 8 : 0; }
  int64_t block_bytes() const { return prefix_bytes() + padded_block() * units() * unit_bytes; }
  const void* block_values(int64_t b) const { return reinterpret_cast<const char*>(values()) + b * block_bytes(); }
};
static_assert(sizeof(PackedHeader) == 64);

// Columns per block, which is what threads share a conv by: a group, in equal pieces where it is wide, or for attention
// (num_heads > 0) the largest piece that crosses neither a group nor a head, so that every head can be computed on its
// own.
int64_t block_columns(const Weight& weight, int64_t num_heads);

// The header of the section of `weight`, but for the fingerprint.
PackedHeader section_header(const TierLayout& tier, const Weight& weight, int64_t num_heads, Compute compute);

// Bytes of the section of `weight`.
int64_t packed_bytes(const TierLayout& tier, const Weight& weight, int64_t num_heads,
                     Compute compute = Compute::float32);

// Writes the section of `weight` at `out`, 64-byte aligned, packed_bytes(...) long.
void pack(const TierLayout& tier, const Weight& weight, int64_t num_heads, void* out, const Parallel& parallel,
          Compute compute = Compute::float32);

// The inverse of pack: the values of a section as row-major [n][k]. For int8 `values` are the int8_t q, and `scale` [n]
// takes the scales; otherwise `values` are floats (as rounded by pack), and `scale` is not used.
void unpack(const PackedHeader& section, void* values, float* scale, const Parallel& parallel);

// A hash of a fixed sample of the values of `weight`, equal for equal values of the same type.
uint64_t fingerprint(const Weight& weight);

// The section of `weight` at `offset` of a buffer of `bytes`, whatever its Compute, and the offset behind it; null with
// a message in `error` if it is not one, was packed for a tier with another layout or does not have the weight's shape.
const PackedHeader* find_section(const TierLayout& tier, const Weight& weight, int64_t num_heads, const void* buffer,
                                 int64_t bytes, int64_t* offset, std::string* error);

// The sections of `weights`, one behind the other from the start of the buffer; none with a message in `error` if one
// is missing, as above. Those of attention (num_heads > 0) have one Compute: its input is encoded once for all of them.
std::vector<const PackedHeader*> find_sections(const TierLayout& tier, const std::vector<Weight>& weights,
                                               int64_t num_heads, const void* buffer, int64_t bytes,
                                               std::string* error);

// The same for a tier that this machine runs.
inline int64_t packed_bytes(const KernelTable& table, const Weight& weight, int64_t num_heads,
                            Compute compute = Compute::float32) {
  return packed_bytes(table.layout, weight, num_heads, compute);
}
inline void pack(const KernelTable& table, const Weight& weight, int64_t num_heads, void* out, const Parallel& parallel,
                 Compute compute = Compute::float32) {
  pack(table.layout, weight, num_heads, out, parallel, compute);
}
inline std::vector<const PackedHeader*> find_sections(const KernelTable& table, const std::vector<Weight>& weights,
                                                      int64_t num_heads, const void* buffer, int64_t bytes,
                                                      std::string* error) {
  return find_sections(table.layout, weights, num_heads, buffer, bytes, error);
}

}  // namespace sbk
