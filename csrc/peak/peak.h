// peak/ is the room of the peak of each tier: its multiply-add instruction on registers alone, all ports busy. What a
// kernel is held against is measured right beside it, because clocks and neighbours change.
#pragma once
#include <cstdint>
#include <string>

#include "kernels/table.h"
#include "kernels/unroll.h"

namespace sbk {

struct PeakLoop {
  double operations;  // of one step, two for every multiply-add
  void (*run)(int64_t steps);
};

// For fp32, bf16, int8 and fp16, as the tier's kernels multiply them.
struct PeakLoops {
  PeakLoop float32, bfloat16, int8, float16;
};

// Of the tier named `isa`; null for one that this build does not have. Running one needs a CPU of that tier.
const PeakLoops* peak_loops(const std::string& isa);

// Operations per second of all `threads` threads together: the best of three runs of `microseconds` / 3.
double measure_peak(const PeakLoop& loop, int64_t microseconds, int threads);

// Bytes per second of `threads` threads that read a block which no cache holds.
double measure_bandwidth(int threads);

}  // namespace sbk

namespace {

#if defined(__AVX512F__)
#define SBK_ANY_REGISTER "+v"
#elif defined(__x86_64__)
#define SBK_ANY_REGISTER "+x"
#else
#define SBK_ANY_REGISTER "+w"
#endif

// M: acc, operand; per, lanes; chains: independent accumulators, enough to cover the latency and few enough for the
// register file; start(i), one() and mac(c, a, b).
template <class M>
void peak_run(int64_t steps) {
  typename M::acc acc[M::chains];
  sbk::unroll<M::chains>([&](auto i) SBK_INLINE_LAMBDA { acc[i] = M::start(i); });
  typename M::operand a = M::one(), b = M::one();
  for (int64_t s = 0; s < steps; s++) {
    sbk::unroll<M::chains>([&](auto i) SBK_INLINE_LAMBDA {
      asm("" : SBK_ANY_REGISTER(a));  // a might have changed: nothing of a product can be moved out of the loop
      acc[i] = M::mac(acc[i], a, b);
    });
  }
  sbk::unroll<M::chains>([&](auto i) SBK_INLINE_LAMBDA {
    typename M::acc& sum = acc[i];  // clang 22 captures nothing for an asm operand alone
    asm volatile("" : SBK_ANY_REGISTER(sum));
  });
}

template <class M>
constexpr sbk::PeakLoop peak_of() {
  return {2.0 * M::chains * M::lanes * M::per, peak_run<M>};
}

}  // namespace
