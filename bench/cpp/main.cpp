// sbk_kernel_bench: the kernels of every tier, dtype and shape, as per cent of a peak measured in turns with them.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "api.h"
#include "cases.h"
#include "instructions.h"
#include "runtime/cpu.h"

namespace {

using sbk::Compute;
using sbk::bench::Work;

constexpr const char* kUsage =
    "usage: sbk_kernel_bench [--isa TIER] [--dtype float32|bfloat16|int8|float16] [--case NAME] [--rounds N]\n"
    "                        [--milliseconds N] [--calls N | --instructions | --compiler]\n"
    "  --case          part of the name of cases, or the whole name of one that is not listed (cases.h)\n"
    "  --calls         runs each case N times and measures nothing: for a profiler\n"
    "  --instructions  counts the instructions of one run instead of timing it\n"
    "  --compiler      prints what built it, e.g. gcc 12: instruction counts are comparable within one\n";

#define SBK_TEXT(x) #x
#define SBK_VALUE(x) SBK_TEXT(x)
#if defined(__clang__)
constexpr const char* kCompiler = "clang " SBK_VALUE(__clang_major__);
#else
constexpr const char* kCompiler = "gcc " SBK_VALUE(__GNUC__);
#endif

struct Options {
  std::string isa, dtype, name;
  int64_t rounds = 15, milliseconds = 3, calls = 0;
  bool instructions = false;
};

[[noreturn]] void fail(const std::string& message) {
  std::fprintf(stderr, "sbk_kernel_bench: error: %s\n", message.c_str());
  std::exit(2);
}

int64_t positive(const std::string& option, const char* text) {
  char* end = nullptr;
  const int64_t value = std::strtoll(text, &end, 10);
  if (*text == '\0' || *end != '\0' || value < 1)
    fail(option + " must be a whole number from 1 on, got '" + text + "'");
  return value;
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i++) {
    const std::string option = argv[i];
    if (option == "--help") std::printf("%s", kUsage), std::exit(0);
    if (option == "--compiler") std::printf("%s\n", kCompiler), std::exit(0);
    if (option == "--instructions") {
      options.instructions = true;
      continue;
    }
    const bool known = option == "--isa" || option == "--dtype" || option == "--case" || option == "--rounds" ||
                       option == "--milliseconds" || option == "--calls";
    if (!known) fail("unknown option '" + option + "' (see --help)");
    if (++i == argc) fail(option + " needs a value");
    if (option == "--isa") options.isa = argv[i];
    if (option == "--dtype") options.dtype = argv[i];
    if (option == "--case") options.name = argv[i];
    if (option == "--rounds") options.rounds = positive(option, argv[i]);
    if (option == "--milliseconds") options.milliseconds = positive(option, argv[i]);
    if (option == "--calls") options.calls = positive(option, argv[i]);
  }
  Compute compute;
  if (!options.isa.empty() && sbk::find_table(options.isa) == nullptr) {
    std::string possible;
    for (const sbk::KernelTable* table : sbk::available_tables()) possible += std::string(" ") + table->isa;
    fail("--isa '" + options.isa + "' is not possible on this machine; possible:" + possible);
  }
  if (!options.dtype.empty() && !sbk::bench::parse_compute(options.dtype, &compute)) {
    fail("--dtype '" + options.dtype + "' is none of float32, bfloat16, int8, float16");
  }
  return options;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
}

// False if the result is wrong.
bool time_case(const std::string& isa, const std::string& dtype, const std::string& name, Work& work,
               const Options& options) {
  work.run();
  const double error = work.error();
  if (!(error <= 1)) {
    std::printf("%-10s  %-8s  %-36s  WRONG RESULT: error is %.3g times what is allowed\n", isa.c_str(), dtype.c_str(),
                name.c_str(), error);
    return false;
  }
  const double wanted = 1e-3 * static_cast<double>(options.milliseconds), once = sbk_bench_run(&work, 3) / 3;
  const int64_t calls = std::max<int64_t>(1, static_cast<int64_t>(wanted / once));
  std::vector<double> seconds, shares;
  for (int64_t r = 0; r < options.rounds; r++) {
    const double peak = sbk_bench_peak(isa.c_str(), dtype.c_str(), 1000 * options.milliseconds, 1);
    seconds.push_back(sbk_bench_run(&work, calls) / static_cast<double>(calls));
    shares.push_back(work.flops / seconds.back() / peak);
  }
  const double time = median(seconds);
  std::printf("%-10s  %-8s  %-36s  %9.2f us  %7.1f GB/s", isa.c_str(), dtype.c_str(), name.c_str(), 1e6 * time,
              1e-9 * work.bytes / time);
  if (work.flops > 0) std::printf("  %7.1f G/s  %5.1f %% of peak", 1e-9 * work.flops / time, 100 * median(shares));
  std::printf("\n");
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = parse(argc, argv);
  std::vector<std::string> names;
  for (const std::string& name : sbk::bench::case_names()) {
    if (name == options.name) {
      names = {name};
      break;
    }
    if (name.find(options.name) != std::string::npos) names.push_back(name);
  }
  if (names.empty()) names = {options.name};
  bool found = false, good = true;
  for (const sbk::KernelTable* table : sbk::available_tables()) {
    if (!options.isa.empty() && options.isa != table->isa) continue;
    for (Compute compute : sbk::bench::kComputes) {
      const std::string dtype = sbk::compute_name(compute);
      if (!options.dtype.empty() && options.dtype != dtype) continue;
      for (const std::string& name : names) {
        const auto work = sbk::bench::open_case(*table, compute, name);
        if (!work) continue;
        found = true;
        if (options.calls > 0) {
          for (int64_t i = 0; i < options.calls; i++) sbk_counted_run(*work);
        } else if (options.instructions) {
          const int64_t count = sbk::bench::count_instructions(*work);
          std::printf("%s\t%s\t%s\t%lld\n", table->isa, dtype.c_str(), name.c_str(), static_cast<long long>(count));
        } else {
          good &= time_case(table->isa, dtype, name, *work, options);
        }
        std::fflush(stdout);
      }
    }
  }
  if (!found) fail("no case '" + options.name + "'");
  return good ? 0 : 1;
}
