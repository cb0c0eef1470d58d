#include "tools/bench_measure.h"

#include <algorithm>
#include <chrono>

#include "peak/peak.h"
#include "runtime/topology.h"

namespace sbk::tools {
namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
}

const PeakLoop* peak_loop(const std::string& tier, sbk_dtype dtype) {
  const PeakLoops* loops = peak_loops(tier);
  if (loops == nullptr) return nullptr;
  switch (dtype) {
    case SBK_FLOAT32:
      return &loops->float32;
    case SBK_BFLOAT16:
      return &loops->bfloat16;
    case SBK_INT8:
      return &loops->int8;
    case SBK_FLOAT16:
      return &loops->float16;
    default:
      return nullptr;
  }
}

}  // namespace

Times measure(const Effort& effort, const std::function<void()>& run) {
  const Clock::time_point begin = Clock::now();
  for (int64_t i = 0; i < effort.warm_up; i++) {
    run();
    if (i > 0 && since(begin) > effort.seconds / 4) break;
  }
  int64_t calls = 1;
  if (effort.sample > 0) {
    const Clock::time_point one = Clock::now();
    run();
    calls = std::clamp<int64_t>(static_cast<int64_t>(effort.sample / std::max(since(one), 1e-7)), 1, 1 << 20);
  }
  std::vector<double> seconds;
  const Clock::time_point timed = Clock::now();
  for (int64_t i = 0; i < effort.runs; i++) {
    const Clock::time_point sample = Clock::now();
    for (int64_t call = 0; call < calls; call++) run();
    seconds.push_back(since(sample) / static_cast<double>(calls));
    if (i + 1 >= effort.fewest && since(timed) > effort.seconds) break;
  }
  const auto n = static_cast<int64_t>(seconds.size()), quarter = std::max<int64_t>(n / 4, 1);
  std::vector<double> sorted = seconds;
  std::sort(sorted.begin(), sorted.end());
  return {median(seconds),
          sorted[static_cast<size_t>((9 * n + 9) / 10 - 1)],
          sorted[0],
          median({seconds.begin(), seconds.begin() + quarter}),
          median({seconds.end() - quarter, seconds.end()}),
          n};
}

Placement place(const Machine& machine, std::vector<int> cpus, int32_t threads) {
  const auto speed = [&](int number) {
    for (const MachineCpu& cpu : machine.cpus) {
      if (cpu.cpu == number) return std::pair(cpu.max_khz, cpu.capacity);
    }
    return std::pair<int64_t, int64_t>(0, 0);
  };
  std::stable_sort(cpus.begin(), cpus.end(), [&](int a, int b) { return speed(a) > speed(b); });
  if (cpus.size() > static_cast<size_t>(threads)) cpus.resize(static_cast<size_t>(threads));
  std::sort(cpus.begin(), cpus.end());
  const bool kept = run_on(cpus);
  return {threads, std::move(cpus), kept};
}

std::optional<double> peak(const std::string& tier, sbk_dtype dtype, int32_t threads, double seconds) {
  const PeakLoop* loop = peak_loop(tier, dtype);
  if (loop == nullptr || loop->run == nullptr) return std::nullopt;
  return measure_peak(*loop, static_cast<int64_t>(1e6 * seconds), threads);
}

bool is_float32_inside(const std::string& tier, sbk_dtype dtype) {
  const PeakLoop *loop = peak_loop(tier, dtype), *float32 = peak_loop(tier, SBK_FLOAT32);
  return dtype != SBK_FLOAT32 && loop != nullptr && loop->run == float32->run;
}

}  // namespace sbk::tools
