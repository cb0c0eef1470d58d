#include "ops/checksums.h"

#include <algorithm>
#include <cstring>

namespace sbk {

int64_t checksum(const void* data, int64_t bytes, int64_t i) {
  // Independent sums, each a chain of multiplications: so many that the chains do not wait for one another.
  constexpr int64_t kSums = 8, kStep = kSums * 8;
  constexpr uint64_t kPrime = 0x9e3779b185ebca87u;  // odd: multiplying by it loses nothing
  const char* p = static_cast<const char*>(data) + i * kChecksumBytes;
  const int64_t n = std::min(kChecksumBytes, bytes - i * kChecksumBytes);
  uint64_t sums[kSums] = {1, 2, 3, 4, 5, 6, 7, 8};
  const auto add = [&](const char* from) {
    for (int64_t s = 0; s < kSums; s++) {
      uint64_t word;
      std::memcpy(&word, from + s * 8, sizeof word);
      sums[s] = (sums[s] ^ word) * kPrime;
    }
  };
  int64_t done = 0;
  for (; done + kStep <= n; done += kStep) {
    __builtin_prefetch(p + done + 2048);  // a piece is over before the CPU has seen what comes
    add(p + done);
  }
  if (done < n) {
    char rest[kStep] = {};
    std::memcpy(rest, p + done, static_cast<std::size_t>(n - done));
    add(rest);
  }
  uint64_t sum = static_cast<uint64_t>(n);
  for (const uint64_t s : sums) sum = (sum ^ s ^ s >> 29) * kPrime;
  return static_cast<int64_t>(sum);
}

}  // namespace sbk
