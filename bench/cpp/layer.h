// A whole encoder layer as a case: core/ops.h on one thread, one sequence, heads of 64 channels.
#pragma once
#include <cstdint>
#include <memory>

#include "cases.h"

namespace sbk::bench {

bool is_layer(int64_t channels, int64_t hidden, int64_t groups);

// `groups` of all convolutions but post-attention's, which has one.
std::unique_ptr<Work> open_layer(const KernelTable& table, Compute compute, int64_t tokens, int64_t channels,
                                 int64_t hidden, int64_t groups);

}  // namespace sbk::bench
