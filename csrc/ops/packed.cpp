#include "ops/packed.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "kernels/panels.h"

namespace sbk {
namespace {

constexpr char kMagic[4] = {'S', 'B', 'K', 'P'};
constexpr uint16_t kVersion = 2;

// One column of a weight, rounded for `compute`: rounded(step) for step < k.
struct Column {
  const Weight& w;
  Compute compute;
  int64_t first;  // index of its first value
  float scale = 1.0f, inverse = 1.0f;

  Column(const Weight& weight, Compute c, int64_t column) : w(weight), compute(c), first(column * weight.k) {
    if (compute != Compute::int8) return;
    float max = 0.0f, poison = 0.0f;
    for (int64_t i = 0; i < w.k; i++) {
      const float v = at(i);
      max = std::max(max, std::fabs(v)), poison += v * 0.0f;
    }
    const float rounded = int8_scale(max);
    scale = rounded + poison;  // a column with NaN or infinity is all NaN
    inverse = rounded > 0 && std::isfinite(max) ? 1.0f / rounded : 0.0f;
  }
  int32_t quantized(int64_t step) const {
    const float q = std::nearbyint(at(step) * inverse);
    return q == q ? static_cast<int32_t>(q) : 0;
  }
  // The bits of unit `unit`.
  uint64_t unit(int64_t unit, int32_t per, int32_t unit_bytes) const {
    const int32_t width = 8 * unit_bytes / per;
    uint64_t bits = 0;
    for (int32_t i = 0; i < per && unit * per + i < w.k; i++) {
      bits |= (value(unit * per + i, width) & ((uint64_t{1} << width) - 1)) << (i * width);
    }
    return bits;
  }

 private:
  float at(int64_t step) const { return value_at(w.data, w.type, first + step); }
  // In `width` bits; floats that were rounded where a tier has 32 for less.
  uint32_t value(int64_t step, int32_t width) const {
    if (compute == Compute::int8) return static_cast<uint32_t>(quantized(step));
    const float x = at(step);
    if (compute == Compute::bfloat16) return width == 16 ? round_to_bf16(x) >> 16 : round_to_bf16(x);
    if (compute == Compute::float16) return width == 16 ? fp16_bits(x) : bits_of(round_to_fp16(x));
    return bits_of(x);
  }
};

}  // namespace

bool is_weight_shape(int64_t n, int64_t k, int64_t groups) {
  return n > 0 && k > 0 && groups > 0 && n % groups == 0 && n <= kMostWeightValues / k;
}

int64_t block_columns(const Weight& w, int64_t num_heads) {
  const int64_t group = w.n / w.groups;
  if (num_heads > 0) return std::gcd(group, w.n / num_heads);
  // The widest equal pieces that are whole panels on every tier.
  constexpr int64_t kBlock = 192, kPanel = 48;
  for (int64_t piece = kBlock; piece >= kPanel; piece -= kPanel) {
    if (group % piece == 0) return piece;
  }
  return group;
}

PackedHeader section_header(const TierLayout& tier, const Weight& w, int64_t num_heads, Compute compute) {
  const PackLayout& layout = layout_of(tier, compute);
  PackedHeader header;
  std::memset(&header, 0, sizeof header);
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.version = kVersion;
  header.lanes = static_cast<uint16_t>(layout.lanes);
  header.tile_vectors = static_cast<uint16_t>(layout.tile_vectors);
  header.compute = static_cast<uint16_t>(compute);
  header.per = static_cast<uint16_t>(layout.per);
  header.unit_bytes = static_cast<uint8_t>(layout.unit_bytes);
  header.has_offsets = layout.least != kSymmetric;
  header.n = w.n, header.k = w.k, header.groups = w.groups;
  header.block = block_columns(w, num_heads);
  const int64_t values = w.n / header.block * header.block_bytes();
  header.bytes = static_cast<int64_t>(sizeof(PackedHeader)) + (values + 63) / 64 * 64;
  return header;
}

int64_t packed_bytes(const TierLayout& tier, const Weight& w, int64_t num_heads, Compute compute) {
  return section_header(tier, w, num_heads, compute).bytes;
}

void pack(const TierLayout& tier, const Weight& w, int64_t num_heads, void* out, const Parallel& parallel,
          Compute compute) {
  PackedHeader& header = *static_cast<PackedHeader*>(out);
  header = section_header(tier, w, num_heads, compute);
  header.fingerprint = fingerprint(w);

  const int64_t lanes = header.lanes, vectors = header.padded_block() / lanes, units = header.units();
  const int64_t panels = panel_count(vectors, header.tile_vectors);
  char* values = const_cast<char*>(static_cast<const char*>(header.block_values(0)));
  parallel_for(parallel, w.n / header.block * panels, [&](int64_t task) {
    const int64_t b = task / panels;
    const Panel p = panel_at(vectors, header.tile_vectors, task % panels);
    const int64_t first = p.first * lanes, padded = p.width * lanes;
    char* block = values + b * header.block_bytes();
    char* panel = block + header.prefix_bytes() + first * units * header.unit_bytes;
    const auto put = [&](int64_t step, int64_t c, uint64_t unit) {
      switch (header.unit_bytes) {
        case 2:
          reinterpret_cast<uint16_t*>(panel)[step * padded + c] = static_cast<uint16_t>(unit);
          return;
        case 4:
          reinterpret_cast<uint32_t*>(panel)[step * padded + c] = static_cast<uint32_t>(unit);
          return;
        default:
          reinterpret_cast<uint64_t*>(panel)[step * padded + c] = unit;
      }
    };
    // Column by column: reads a row of w front to back, writes with the stride of a panel.
    for (int64_t c = 0; c < padded; c++) {
      const bool inside = first + c < header.block;
      if (!inside) {
        for (int64_t step = 0; step < units; step++) put(step, c, 0);
      }
      const int64_t index = b * header.block + first + c;
      if (inside && compute == Compute::float32 && w.type == WeightType::float32) {
        const float* row = static_cast<const float*>(w.data) + index * w.k;
        for (int64_t step = 0; step < units; step++) put(step, c, bits_of(row[step]));
        continue;
      }
      float scale = 0.0f;
      int32_t offset = 0;
      if (inside) {
        const Column column(w, compute, index);
        for (int64_t step = 0; step < units; step++) put(step, c, column.unit(step, header.per, header.unit_bytes));
        scale = column.scale;
        if (header.has_offsets) {
          for (int64_t step = 0; step < w.k; step++) offset -= column.quantized(step);
        }
      }
      if (compute == Compute::int8) {
        reinterpret_cast<int32_t*>(block)[first + c] = offset;
        reinterpret_cast<float*>(block)[header.padded_block() + first + c] = scale;
      }
    }
  });
}

void unpack(const PackedHeader& section, void* values, float* scale, const Parallel& parallel) {
  const int64_t lanes = section.lanes, vectors = section.padded_block() / lanes, units = section.units();
  const int64_t panels = panel_count(vectors, section.tile_vectors);
  const bool int8 = section.is(Compute::int8);
  const int32_t value_bytes = section.unit_bytes / section.per;
  parallel_for(parallel, section.n / section.block * panels, [&](int64_t task) {
    const int64_t b = task / panels;
    const Panel p = panel_at(vectors, section.tile_vectors, task % panels);
    const int64_t first = p.first * lanes, padded = p.width * lanes;
    const char* block = static_cast<const char*>(section.block_values(b));
    const char* panel = block + section.prefix_bytes() + first * units * section.unit_bytes;
    const auto get = [&](int64_t step, int64_t c) {
      const char* unit = panel + (step / section.per * padded + c) * section.unit_bytes;
      uint32_t bits = 0;
      std::memcpy(&bits, unit + step % section.per * value_bytes, value_bytes);
      return bits;
    };
    for (int64_t c = 0; c < padded && first + c < section.block; c++) {
      const int64_t column = b * section.block + first + c;
      if (int8) scale[column] = reinterpret_cast<const float*>(block)[section.padded_block() + first + c];
      for (int64_t step = 0; step < section.k; step++) {
        const uint32_t bits = get(step, c);
        if (int8) {
          static_cast<int8_t*>(values)[column * section.k + step] = static_cast<int8_t>(bits);
          continue;
        }
        const auto half = static_cast<uint16_t>(bits);
        static_cast<float*>(values)[column * section.k + step] = value_bytes == 4 ? float_from_bits(bits)
                                                                 : section.is(Compute::bfloat16)
                                                                     ? float_from_bits(bits << 16)
                                                                     : fp16_to_float(half);
      }
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

const PackedHeader* find_section(const TierLayout& tier, const Weight& w, int64_t num_heads, const void* buffer,
                                 int64_t bytes, int64_t* offset, std::string* error) {
  const auto* header = reinterpret_cast<const PackedHeader*>(static_cast<const char*>(buffer) + *offset);
  if (bytes - *offset < static_cast<int64_t>(sizeof(PackedHeader)) || std::memcmp(header->magic, kMagic, 4) != 0 ||
      header->version != kVersion || header->compute > static_cast<uint16_t>(Compute::float16)) {
    *error = "packed is not a result of ops.pack for these weights";
    return nullptr;
  }
  const PackedHeader wanted = section_header(tier, w, num_heads, static_cast<Compute>(header->compute));
  if (header->lanes != wanted.lanes || header->tile_vectors != wanted.tile_vectors || header->per != wanted.per ||
      header->unit_bytes != wanted.unit_bytes || header->has_offsets != wanted.has_offsets) {
    *error = "packed was made for another ISA tier than " + std::string(tier.tier);
    return nullptr;
  }
  if (header->n != w.n || header->k != w.k || header->groups != w.groups || header->block != wanted.block ||
      header->bytes != wanted.bytes) {
    *error = "packed was made for a weight [" + std::to_string(header->n) + ", " + std::to_string(header->k) +
             "] with " + std::to_string(header->groups) + " groups, not for [" + std::to_string(w.n) + ", " +
             std::to_string(w.k) + "] with " + std::to_string(w.groups) + (num_heads ? " and these heads" : "");
    return nullptr;
  }
  if (header->bytes > bytes - *offset) {
    *error = "packed is truncated: " + std::to_string(bytes - *offset) + " of " + std::to_string(header->bytes) +
             " bytes of a section are there";
    return nullptr;
  }
  *offset += header->bytes;
  return header;
}

std::vector<const PackedHeader*> find_sections(const TierLayout& tier, const std::vector<Weight>& weights,
                                               int64_t num_heads, const void* buffer, int64_t bytes,
                                               std::string* error) {
  std::vector<const PackedHeader*> sections;
  int64_t offset = 0;
  for (const Weight& w : weights) {
    const PackedHeader* section = find_section(tier, w, num_heads, buffer, bytes, &offset, error);
    if (section == nullptr) return {};
    if (num_heads > 0 && !sections.empty() && section->compute != sections[0]->compute) {
      *error = std::string("packed holds different dtypes, ") +
               compute_name(static_cast<Compute>(sections[0]->compute)) + " and " +
               compute_name(static_cast<Compute>(section->compute)) + ", where attention needs one for all its weights";
      return {};
    }
    sections.push_back(section);
  }
  return sections;
}

}  // namespace sbk
