#include "api.h"

#include <chrono>
#include <sstream>

#include "cases.h"
#include "peak/peak.h"
#include "runtime/cpu.h"

using sbk::Compute;
using sbk::bench::Work;

const char* sbk_bench_cases() {
  static const std::string lines = [] {
    std::ostringstream out;
    for (const sbk::KernelTable* table : sbk::available_tables()) {
      for (Compute compute : sbk::bench::kComputes) {
        for (const std::string& name : sbk::bench::case_names()) {
          if (!sbk::bench::has_case(*table, compute, name)) continue;
          out << table->isa << '\t' << sbk::compute_name(compute) << '\t' << name << '\n';
        }
      }
    }
    return out.str();
  }();
  return lines.c_str();
}

double sbk_bench_peak(const char* isa, const char* dtype, int64_t microseconds, int64_t threads) {
  Compute compute;
  const sbk::PeakLoops* loops = sbk::peak_loops(isa);
  if (loops == nullptr || sbk::find_table(isa) == nullptr || !sbk::bench::parse_compute(dtype, &compute)) return 0;
  const auto& loop = compute == Compute::float32    ? loops->float32
                     : compute == Compute::bfloat16 ? loops->bfloat16
                     : compute == Compute::int8     ? loops->int8
                                                    : loops->float16;
  return sbk::measure_peak(loop, microseconds, static_cast<int>(threads));
}

double sbk_bench_bandwidth(int64_t threads) { return sbk::measure_bandwidth(static_cast<int>(threads)); }

void* sbk_bench_open(const char* isa, const char* dtype, const char* name) {
  Compute compute;
  const sbk::KernelTable* table = sbk::find_table(isa);
  if (table == nullptr || !sbk::bench::parse_compute(dtype, &compute)) return nullptr;
  auto work = sbk::bench::open_case(*table, compute, name);
  if (work) work->run();
  return work.release();
}

void sbk_bench_close(void* work) { delete static_cast<Work*>(work); }

double sbk_bench_flops(void* work) { return static_cast<Work*>(work)->flops; }

double sbk_bench_bytes(void* work) { return static_cast<Work*>(work)->bytes; }

double sbk_bench_error(void* work) { return static_cast<Work*>(work)->error(); }

double sbk_bench_run(void* work, int64_t calls) {
  const auto begin = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < calls; i++) static_cast<Work*>(work)->run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}
