// What results may differ by from exact ones: the roundings of a compute.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/table.h"

namespace sbk::bench {

// Largest relative error of one rounding.
inline constexpr double kUnit = 0x1p-24, kBFloat16Unit = 0x1p-8, kFloat16Unit = 0x1p-11;

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

inline double rounding(Compute compute) {
  return compute == Compute::bfloat16 ? kBFloat16Unit : compute == Compute::float16 ? kFloat16Unit : kUnit;
}

// Of a sum of fp16 in fp16, as a share of the products' sizes: as many roundings as a chunk has steps, of partial sums
// that signs keep at a few times the root of their number.
inline double chunk_error(const LowPrecision* low, double k) {
  if (low == nullptr || low->chunk == 0) return 0;
  return 4 * kFloat16Unit * std::sqrt(std::min(k, static_cast<double>(low->chunk)));
}

}  // namespace sbk::bench
