// Checksums: of the sections of a file (model/container.h), and of pieces of a weight in memory, by which a change that
// nobody announced is found (squeezebert_kernels/weights/packing.py). They find damage, and no adversary.
#pragma once
#include <algorithm>
#include <bit>
#include <cstdint>

namespace sbk {

// `h` with one more word in it.
inline uint64_t mix(uint64_t h, uint64_t word) { return std::rotl((h ^ word) * 0x9e3779b97f4a7c15u, 31); }

// Of `bytes` at `data`: four interleaved multiply-rotate chains over 32-byte blocks, an order of magnitude faster than
// reading from flash. Files hold it, so it never changes.
uint64_t checksum(const void* data, uint64_t bytes);

// Of a weight in memory; the last one may be shorter.
inline constexpr int64_t kPieceBytes = 4096;

constexpr int64_t piece_count(int64_t bytes) { return (bytes + kPieceBytes - 1) / kPieceBytes; }

// Of piece `i` of the `bytes` at `data`.
inline int64_t piece_checksum(const void* data, int64_t bytes, int64_t i) {
  const int64_t begin = i * kPieceBytes, size = std::min(kPieceBytes, bytes - begin);
  return static_cast<int64_t>(checksum(static_cast<const char*>(data) + begin, static_cast<uint64_t>(size)));
}

}  // namespace sbk
