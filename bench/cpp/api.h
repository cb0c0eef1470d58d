// The benchmarks for a caller in another language. Names of tiers are those of SBK_ISA, names of cases those of
// cases.h, dtypes "float32", "bfloat16", "int8". Not thread-safe.
#pragma once
#include <cstdint>

#define SBK_BENCH_API extern "C" __attribute__((visibility("default")))

// One line per tier, dtype and case of this machine: isa, dtype, name, separated by tabs.
SBK_BENCH_API const char* sbk_bench_cases();

// Operations per second of the tier's multiply-add on registers alone, all threads together; 0 where there is no such
// loop.
SBK_BENCH_API double sbk_bench_peak(const char* isa, const char* dtype, int64_t microseconds, int64_t threads);

// Bytes per second of reading a block that no cache holds.
SBK_BENCH_API double sbk_bench_bandwidth(int64_t threads);

// A case with its operands, run once; null if there is none of this name. Ends with sbk_bench_close.
SBK_BENCH_API void* sbk_bench_open(const char* isa, const char* dtype, const char* name);
SBK_BENCH_API void sbk_bench_close(void* work);

// Floating-point operations (0: none worth counting) and bytes of operands and results, of one call.
SBK_BENCH_API double sbk_bench_flops(void* work);
SBK_BENCH_API double sbk_bench_bytes(void* work);

// The largest error against float64 as a share of what is allowed.
SBK_BENCH_API double sbk_bench_error(void* work);

// Seconds that `calls` calls take.
SBK_BENCH_API double sbk_bench_run(void* work, int64_t calls);
