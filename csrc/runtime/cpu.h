// Which kernel tables this CPU can run, and which one is used.
#pragma once
#include <string>
#include <vector>

#include "kernels/table.h"

namespace sbk {

// Tables of this build that this CPU and operating system can run, slowest first. Never empty. Thread-safe.
const std::vector<const KernelTable*>& available_tables();

// The one of available_tables() whose tier this is; null if there is none. Thread-safe.
const KernelTable* find_table(const std::string& isa);

// The last of available_tables(), or the one that the environment variable SBK_ISA names, read at the first call.
// Null if SBK_ISA names one that is not available; `error` then lists the possible ones. Thread-safe.
const KernelTable* active_table(std::string* error = nullptr);

// How `table` multiplies in `compute`; null for fp32.
const LowPrecision* low_precision(const KernelTable& table, Compute compute);

}  // namespace sbk
