// sbk-bench: times, and the peaks that they are held against.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "tools/bench_machine.h"
#include "tools/command.h"

namespace sbk::tools {

// Seconds.
struct Times {
  double p50, p90, least;
  double first_quarter, last_quarter;  // medians: a machine that gets hot shows here
  int64_t runs;
};

struct Effort {
  int64_t warm_up = 3, runs = 30;
  double seconds = 10;  // ends a measurement early, but not before `fewest` runs
  int64_t fewest = 4;
  double sample = 0;  // seconds that one sample takes at least, of several calls if need be
};

// Times calls of run(), after warming up.
Times measure(const Effort& effort, const std::function<void()>& run);

// Where work is done: the main thread, and every thread that is made while it is there.
struct Placement {
  int32_t threads;
  std::vector<int> cpus;
  bool kept;  // false where the system did not agree
};

// The `threads` fastest of `cpus`.
Placement place(const Machine& machine, std::vector<int> cpus, int32_t threads);

// Operations per second of the multiply-adds of `tier` for `dtype` on registers alone, on `threads` threads together;
// nothing where this build has no such loop.
std::optional<double> peak(const std::string& tier, sbk_dtype dtype, int32_t threads, double seconds);

// Whether the tier multiplies `dtype` as float32, for want of instructions.
bool is_float32_inside(const std::string& tier, sbk_dtype dtype);

}  // namespace sbk::tools
