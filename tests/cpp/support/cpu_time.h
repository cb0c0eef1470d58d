// Time as a count of work: what the thread computed, whatever else the machine does. For ratios, with wide margins.
#pragma once
#include <ctime>

namespace test {

inline double cpu_seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace test
