#include "core/packed.h"

#include <cstring>
#include <numeric>

#include "kernels/panels.h"

namespace sbk {
namespace {

constexpr char kMagic[4] = {'S', 'B', 'K', 'P'};
constexpr uint16_t kVersion = 1;

float float_from_bits(uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, sizeof f);
  return f;
}

float half_to_float(uint16_t h) {
  const uint32_t sign = uint32_t{h & 0x8000u} << 16, exponent = (h >> 10) & 0x1f, mantissa = h & 0x3ff;
  if (exponent == 31) return float_from_bits(sign | 0x7f800000u | mantissa << 13);
  if (exponent != 0) return float_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
  const float subnormal = static_cast<float>(mantissa) * 0x1p-24f;
  return sign ? -subnormal : subnormal;
}

float value_at(const Weight& w, int64_t i) {
  switch (w.type) {
    case WeightType::float16: return half_to_float(static_cast<const uint16_t*>(w.data)[i]);
    case WeightType::bfloat16: return float_from_bits(uint32_t{static_cast<const uint16_t*>(w.data)[i]} << 16);
    default: return static_cast<const float*>(w.data)[i];
  }
}

// Packs columns [first, first + columns) of w into `width` vectors per step.
template <class Value>
void pack_panel(const Value& value, int64_t k, int64_t first, int64_t columns, int64_t padded, float* out) {
  for (int64_t step = 0; step < k; step++, out += padded) {
    for (int64_t c = 0; c < columns; c++) out[c] = value((first + c) * k + step);
    for (int64_t c = columns; c < padded; c++) out[c] = 0.0f;
  }
}

}  // namespace

int64_t block_columns(const Weight& w, int64_t num_heads) {
  const int64_t group = w.n / w.groups;
  return num_heads > 0 ? std::gcd(group, w.n / num_heads) : group;
}

int64_t packed_bytes(const KernelTable& table, const Weight& w, int64_t num_heads) {
  const int64_t block = block_columns(w, num_heads), vectors = (block + table.lanes - 1) / table.lanes;
  const int64_t values = w.n / block * vectors * table.lanes * w.k * static_cast<int64_t>(sizeof(float));
  return static_cast<int64_t>(sizeof(PackedHeader)) + (values + 63) / 64 * 64;
}

void pack(const KernelTable& table, const Weight& w, int64_t num_heads, void* out, const Parallel& parallel) {
  PackedHeader& header = *static_cast<PackedHeader*>(out);
  std::memset(&header, 0, sizeof header);
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.version = kVersion;
  header.lanes = static_cast<uint16_t>(table.lanes);
  header.tile_vectors = static_cast<uint16_t>(table.tile_vectors);
  header.n = w.n, header.k = w.k, header.groups = w.groups;
  header.block = block_columns(w, num_heads);
  header.fingerprint = fingerprint(w);
  header.bytes = packed_bytes(table, w, num_heads);

  const int64_t lanes = table.lanes, vectors = (header.block + lanes - 1) / lanes;
  const int64_t panels = panel_count(vectors, table.tile_vectors);
  float* values = const_cast<float*>(header.values());
  parallel_for(parallel, w.n / header.block * panels, [&](int64_t task) {
    const int64_t b = task / panels;
    const Panel p = panel_at(vectors, table.tile_vectors, task % panels);
    const int64_t first = p.first * lanes, padded = p.width * lanes;
    const int64_t columns = header.block - first < padded ? header.block - first : padded;
    float* panel = values + b * header.block_size() + first * w.k;
    const int64_t column = b * header.block + first;
    if (w.type == WeightType::float32) {
      const float* data = static_cast<const float*>(w.data);
      pack_panel([&](int64_t i) { return data[i]; }, w.k, column, columns, padded, panel);
    } else {
      pack_panel([&](int64_t i) { return value_at(w, i); }, w.k, column, columns, padded, panel);
    }
  });
}

uint64_t fingerprint(const Weight& w) {
  constexpr int64_t samples = 48;
  const int64_t size = w.n * w.k;
  uint64_t hash = 0xcbf29ce484222325u ^ static_cast<uint64_t>(w.type);
  for (int64_t s = 0; s < samples; s++) {
    // Spread over all rows and columns: a step that is odd and no divisor of usual sizes.
    const int64_t i = (s * (size / samples | 1) + s * s * 7) % size;
    uint32_t bits = 0;
    if (w.type == WeightType::float32) {
      std::memcpy(&bits, static_cast<const float*>(w.data) + i, sizeof bits);
    } else {
      bits = static_cast<const uint16_t*>(w.data)[i];
    }
    hash = (hash ^ bits) * 0x100000001b3u;
    hash ^= hash >> 29;
  }
  return hash;
}

const PackedHeader* find_section(const KernelTable& table, const Weight& w, int64_t num_heads, const void* buffer,
                                 int64_t bytes, int64_t* offset, std::string* error) {
  const auto* header = reinterpret_cast<const PackedHeader*>(static_cast<const char*>(buffer) + *offset);
  if (bytes - *offset < static_cast<int64_t>(sizeof(PackedHeader)) || std::memcmp(header->magic, kMagic, 4) != 0 ||
      header->version != kVersion) {
    *error = "packed is not a result of ops.pack for these weights";
    return nullptr;
  }
  if (header->lanes != table.lanes || header->tile_vectors != table.tile_vectors) {
    *error = "packed was made for another ISA tier than " + std::string(table.isa);
    return nullptr;
  }
  if (header->n != w.n || header->k != w.k || header->groups != w.groups ||
      header->block != block_columns(w, num_heads) || header->bytes != packed_bytes(table, w, num_heads) ||
      header->bytes > bytes - *offset) {
    *error = "packed was made for a weight [" + std::to_string(header->n) + ", " + std::to_string(header->k) + "] with " +
             std::to_string(header->groups) + " groups, not for [" + std::to_string(w.n) + ", " + std::to_string(w.k) +
             "] with " + std::to_string(w.groups);
    return nullptr;
  }
  *offset += header->bytes;
  return header;
}

}  // namespace sbk
