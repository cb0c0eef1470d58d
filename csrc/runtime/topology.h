// Which CPUs there are, and which of them are worth running on.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace sbk {

struct Cpu {
  int cpu;
  int64_t max_khz;   // 0: unknown
  int64_t capacity;  // Linux's measure of a CPU's speed, the fastest has 1024; 0: unknown
};

struct Topology {
  std::vector<Cpu> cpus;  // online and allowed, in order of their numbers; never empty
  bool x86 = false;

  // The CPUs that tasks of equal size should go to: those of the fast clusters, in order of their numbers. Never empty.
  //
  // A cluster is a run of CPUs, sorted by frequency, in which each is within 10 % of the next. Where that finds one
  // cluster or a frequency is unknown, capacity takes its place: some phones run big and little cores at one frequency.
  // - One cluster, or nothing known: all CPUs.
  // - Several: never the slowest, a straggler that every op would wait for, unless its capacity is known to be at least
  //   3/4 of the largest (phones with no little cores). Another cluster stays out if its capacity is known to be less
  //   than half.
  // - x86: all CPUs. Its frequencies differ by single cores' boost. The slow cores of a hybrid do about half of what
  //   the fast ones do, and there are enough of them to pay once work is handed out dynamically.
  std::vector<int> big_cores() const;
};

// Reads `root`/sys/devices/system/cpu: online (or possible), cpuN/cpufreq/cpuinfo_max_freq, cpuN/cpu_capacity; the CPUs
// of `root`/proc/cpuinfo where that is missing. What cannot be read or makes no sense counts as unknown; a tree that
// tells of no CPU gives allowed_cpus(). With the root "/" only CPUs that the calling thread may run on count. Throws
// nothing but std::bad_alloc.
Topology read_topology(const std::string& root = "/");

// `topology` without the CPUs that are not in `allowed`; all of `allowed`, of unknown speed, if none is left.
Topology restricted(const Topology& topology, const std::vector<int>& allowed);

// The CPUs that the calling thread may run on, never empty. Numbers from 0 where the system does not say.
std::vector<int> allowed_cpus();

// Lets the calling thread run on `cpus` only; false where the system refuses or has no such call.
bool run_on(const std::vector<int>& cpus);

}  // namespace sbk
