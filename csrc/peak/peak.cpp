#include "peak/peak.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "isa/tables.h"

namespace sbk {

#define SBK_TIER(name, architecture, condition) const PeakLoops& peaks_##name();
#include "isa/tiers.inc"

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// work(thread) on all threads at once, begun together; the sum of what they return.
template <class Work>
double on_threads(int threads, const Work& work) {
  std::atomic<int> ready{0};
  std::vector<double> results(threads);
  const auto body = [&](int t) {
    ready++;
    while (ready.load() < threads) std::this_thread::yield();
    results[t] = work(t);
  };
  std::vector<std::thread> others;
  for (int t = 1; t < threads; t++) others.emplace_back(body, t);
  body(0);
  for (std::thread& other : others) other.join();
  double sum = 0;
  for (double result : results) sum += result;
  return sum;
}

}  // namespace

const PeakLoops* peak_loops(const std::string& isa) {
#define SBK_TIER(name, architecture, condition) SBK_IF_##architecture(if (isa == #name) return &peaks_##name();)
#include "isa/tiers.inc"
  return nullptr;
}

double measure_peak(const PeakLoop& loop, int64_t microseconds, int threads) {
  return on_threads(std::max(threads, 1), [&](int) {
    const double wanted = 1e-6 * static_cast<double>(std::max<int64_t>(microseconds, 3)) / 3;
    int64_t steps = 256;
    double took = 0;
    // Long enough to be measured, then as long as wanted.
    for (;; steps *= 4) {
      const Clock::time_point begin = Clock::now();
      loop.run(steps);
      took = seconds_since(begin);
      if (took > 2e-5) break;
    }
    steps = std::max<int64_t>(static_cast<int64_t>(static_cast<double>(steps) * wanted / took), 1);
    double best = 0;
    for (int i = 0; i < 3; i++) {
      const Clock::time_point begin = Clock::now();
      loop.run(steps);
      best = std::max(best, loop.operations * static_cast<double>(steps) / seconds_since(begin));
    }
    return best;
  });
}

double measure_bandwidth(int threads) {
  constexpr int64_t kBytes = int64_t{256} << 20, kLine = 64;
  threads = std::max(threads, 1);
  std::vector<int64_t> block(kBytes / 8, 1);
  double best = 0;
  for (int i = 0; i < 3; i++) {
    const double rate = on_threads(threads, [&](int t) {
      const int64_t words = kBytes / 8 / threads / (kLine / 8) * (kLine / 8);
      const int64_t* p = block.data() + t * words;
      int64_t sums[8] = {};
      const Clock::time_point begin = Clock::now();
      for (int64_t w = 0; w < words; w += 8) {
        for (int j = 0; j < 8; j++) sums[j] += p[w + j];
      }
      for (int64_t& sum : sums) asm volatile("" : "+r"(sum));
      return static_cast<double>(words) * 8 / seconds_since(begin);
    });
    best = std::max(best, rate);
  }
  return best;
}

}  // namespace sbk
