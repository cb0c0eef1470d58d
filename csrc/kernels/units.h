// What most element types (kernels/element.h) have in common: units of 32 bits, a column in every lane of the Vec, and
// sums that stay as they are through the whole of K.
#pragma once
#include <cstdint>

#include "kernels/layout.h"

namespace sbk {
namespace {

template <class V>
struct Units32 {
  using Vec = V;
  using unit = int32_t;
  static constexpr int lanes = V::lanes, chunk = 0;
  static constexpr int32_t least = kSymmetric;
};

}  // namespace
}  // namespace sbk
