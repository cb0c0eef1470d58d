// A whole encoder layer as a case (cases.h): what a model does between two LayerNorms of the next layer, in one thread.
#pragma once
#include <memory>

#include "cases.h"

namespace sbk::bench {

// ROWS tokens of one sequence, CHANNELS in heads of 64, HIDDEN between the two convolutions behind attention. `groups`
// for all but the convolution right behind attention, which has one, as in SqueezeBERT.
struct LayerShape {
  int64_t rows, channels, hidden, groups;
};

std::unique_ptr<Work> open_layer(const KernelTable& table, Compute compute, const LayerShape& shape);

}  // namespace sbk::bench
