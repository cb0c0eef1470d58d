// How a block of `vectors` vectors of columns splits into panels of at most `widest`: as even as can be, wider ones
// first. Packing (ops/packed.h) and the kernels both walk it. In an anonymous namespace because both ISA files and
// others use it.
#pragma once
#include <cstdint>

namespace sbk {
namespace {

struct Panel {
  int64_t first;  // its first vector
  int width;      // in vectors
};

constexpr int64_t panel_count(int64_t vectors, int64_t widest) { return (vectors + widest - 1) / widest; }

constexpr Panel panel_at(int64_t vectors, int64_t widest, int64_t p) {
  const int64_t panels = panel_count(vectors, widest), narrow = vectors / panels, wider = vectors % panels;
  return {p * narrow + (p < wider ? p : wider), static_cast<int>(narrow + (p < wider))};
}

}  // namespace
}  // namespace sbk
