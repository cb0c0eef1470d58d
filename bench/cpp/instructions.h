// Instructions that one run of a kernel executes: the same number on a busy machine as on a quiet one.
#pragma once
#include <cstdint>

#include "cases.h"

namespace sbk::bench {

// Counted by running it step by step in a child process; -1 where the system does not allow that.
int64_t count_instructions(Work& work);

}  // namespace sbk::bench

// One run of the kernel and nothing else: what callgrind is told to count (--toggle-collect=sbk_counted_run).
extern "C" void sbk_counted_run(sbk::bench::Work& work);
