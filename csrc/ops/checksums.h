// Checksums of a weight's memory, a piece each. By them a change that nobody announced is found, some pieces at a time
// (squeezebert_kernels/weights/packing.py). They are not kept in files.
#pragma once
#include <cstdint>

namespace sbk {

// Of one piece; the last one of a weight may be shorter.
inline constexpr int64_t kChecksumBytes = 4096;

constexpr int64_t checksum_count(int64_t bytes) { return (bytes + kChecksumBytes - 1) / kChecksumBytes; }

// Of piece `i` of the `bytes` at `data`. Any change of one 8-byte word changes it. Not for use against an adversary.
int64_t checksum(const void* data, int64_t bytes, int64_t i);

}  // namespace sbk
