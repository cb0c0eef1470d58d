// runtime/ is the room of what runs work: threads (this file and pool.h), scratch memory (workspace.h, huge_pages.h),
// the two together for one caller (executor.h), and what the machine has (cpu.h, topology.h). It knows no operation.
//
// This file: the one way in which ops spread work over threads, a hook that each frontend provides.
#pragma once
#include <cstdint>

#include "runtime/float_environment.h"

namespace sbk {

// run(context, n, task, arg) calls task(arg, begin, end) for disjoint ranges that cover [0, n), on up to `threads`
// threads, and returns when all are done. Results never depend on the ranges.
struct Parallel {
  using Task = void (*)(void* arg, int64_t begin, int64_t end);
  void (*run)(void* context, int64_t n, Task task, void* arg);
  void* context;
  int64_t threads;
};

// f(i) for every i in [0, n), whatever the floating-point modes of the threads are.
template <class F>
void parallel_for(const Parallel& parallel, int64_t n, const F& f) {
  if (n <= 0) return;
  const auto task = [](void* arg, int64_t begin, int64_t end) {
    const F& body = *static_cast<const F*>(arg);
    const FloatEnvironment standard;
    for (int64_t i = begin; i < end; i++) body(i);
  };
  if (n == 1 || parallel.threads <= 1) {
    task(const_cast<F*>(&f), 0, n);
  } else {
    parallel.run(parallel.context, n, task, const_cast<F*>(&f));
  }
}

// Everything in the calling thread.
inline Parallel serial() { return {nullptr, nullptr, 1}; }

}  // namespace sbk
