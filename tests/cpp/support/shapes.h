// Sizes worth sweeping: around every edge that a tile, a vector or a block has.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "guarded.h"
#include "kernels/table.h"

namespace test {

inline constexpr Flush kBothEnds[] = {Flush::start, Flush::end};

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Sorted, without repetitions and without what is below `lowest`.
inline std::vector<int64_t> sizes(std::vector<int64_t> v, int64_t lowest = 1) {
  std::sort(v.begin(), v.end());
  v.erase(std::unique(v.begin(), v.end()), v.end());
  v.erase(v.begin(), std::lower_bound(v.begin(), v.end(), lowest));
  return v;
}

// 0 .. two whole tiles and one more.
inline std::vector<int64_t> row_sizes(const sbk::KernelTable& t) {
  std::vector<int64_t> v;
  for (int64_t r = 0; r <= 2 * t.tile_rows + 1; r++) v.push_back(r);
  return v;
}

// Around every whole number of vectors up to two panels and one vector.
template <class T>  // a table or a layout
std::vector<int64_t> column_sizes(const T& t) {
  std::vector<int64_t> v{1, 2, 3};
  for (int64_t vectors = 1; vectors <= 2 * t.tile_vectors + 1; vectors++) {
    for (int64_t n = -1; n <= 1; n++) v.push_back(vectors * t.lanes + n);
  }
  v.push_back(t.lanes / 2);
  return sizes(v);
}

}  // namespace test
