// The parallel hook over std::thread, with ranges as odd as the contract allows.
#pragma once
#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

#include "runtime/parallel.h"

namespace test {

// Splits [0, n) into ranges of 1, 2, 3, 1, 2, 3, ... and deals them to new threads, the last range first.
class Threads {
 public:
  explicit Threads(int64_t count) : count_(count) {}

  sbk::Parallel hook() { return {run, this, count_}; }

 private:
  struct Range {
    int64_t begin, end;
  };

  static void run(void* context, int64_t n, sbk::Parallel::Task task, void* arg) {
    const int64_t count = static_cast<Threads*>(context)->count_;
    std::vector<Range> ranges;
    for (int64_t begin = 0; begin < n;) {
      const int64_t end = std::min<int64_t>(n, begin + 1 + static_cast<int64_t>(ranges.size() % 3));
      ranges.push_back({begin, end});
      begin = end;
    }
    std::vector<std::thread> threads;
    for (int64_t t = 0; t < count; t++) {
      threads.emplace_back([&ranges, task, arg, t, count] {
        for (int64_t i = static_cast<int64_t>(ranges.size()) - 1 - t; i >= 0; i -= count) {
          task(arg, ranges[i].begin, ranges[i].end);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  int64_t count_;
};

}  // namespace test
