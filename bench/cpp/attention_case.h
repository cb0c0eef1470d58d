// One head of attention as a case (cases.h).
#pragma once
#include <memory>

#include "cases.h"

namespace sbk::bench {

struct AttentionShape {
  int64_t rows, keys, d;  // queries, keys, size of the head
  bool is_masked;
};

std::unique_ptr<Work> open_attention(const KernelTable& table, Compute compute, const AttentionShape& shape);

}  // namespace sbk::bench
