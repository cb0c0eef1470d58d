#include "ops/checksum.h"

#include <cstddef>
#include <cstring>

namespace sbk {

uint64_t checksum(const void* data, uint64_t bytes) {
  const auto* p = static_cast<const std::byte*>(data);
  uint64_t h[4] = {1, 2, 3, 4}, words[4];
  uint64_t left = bytes;
  for (; left >= sizeof words; left -= sizeof words, p += sizeof words) {
    std::memcpy(words, p, sizeof words);
    for (int i = 0; i < 4; i++) h[i] = mix(h[i], words[i]);
  }
  std::memset(words, 0, sizeof words);
  if (left > 0) std::memcpy(words, p, left);
  uint64_t result = bytes;
  for (int i = 0; i < 4; i++) result = mix(result, mix(h[i], words[i]));
  return result ^ result >> 29;
}

}  // namespace sbk
