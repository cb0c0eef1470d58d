#include "runtime/topology.h"

#if defined(__linux__)
#include <sched.h>
#endif

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <string_view>
#include <thread>

namespace sbk {
namespace {

// Beyond these a number is garbage.
constexpr int kMostCpus = 4096;
constexpr int64_t kLeastKhz = 10'000, kMostKhz = 20'000'000, kMostCapacity = 1024;

// A file; empty if it cannot be read or has `limit` bytes or more.
std::string read_file(const std::string& path, size_t limit) {
  std::string text;
  if (std::FILE* file = std::fopen(path.c_str(), "re")) {
    char piece[4096];
    while (text.size() < limit) {
      const size_t bytes = std::fread(piece, 1, sizeof piece, file);
      if (bytes == 0) break;
      text.append(piece, bytes);
    }
    std::fclose(file);
  }
  if (text.size() >= limit) text.clear();
  return text;
}

std::string_view trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r\n");
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

// All of `text` as a number from `least` to `most`, otherwise `none`.
int64_t parse(std::string_view text, int64_t least, int64_t most, int64_t none) {
  text = trimmed(text);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < least || value > most) return none;
  return value;
}

// "0-3,6" as {0, 1, 2, 3, 6}; empty if any part of it makes no sense.
std::vector<int> parse_list(std::string_view text) {
  std::vector<bool> seen(kMostCpus);
  text = trimmed(text);
  while (!text.empty()) {
    const std::string_view range = text.substr(0, text.find(','));
    text.remove_prefix(std::min(text.size(), range.size() + 1));
    const auto dash = range.find('-');
    const int64_t first = parse(range.substr(0, dash), 0, kMostCpus - 1, -1);
    const int64_t last = dash == range.npos ? first : parse(range.substr(dash + 1), 0, kMostCpus - 1, -1);
    if (first < 0 || last < first) return {};
    for (int64_t cpu = first; cpu <= last; cpu++) seen[static_cast<size_t>(cpu)] = true;
  }
  std::vector<int> cpus;
  for (int cpu = 0; cpu < kMostCpus; cpu++) {
    if (seen[static_cast<size_t>(cpu)]) cpus.push_back(cpu);
  }
  return cpus;
}

// The values of the lines "key : value" of /proc/cpuinfo.
std::vector<std::string_view> values_of(std::string_view cpuinfo, std::string_view key) {
  std::vector<std::string_view> values;
  while (!cpuinfo.empty()) {
    const std::string_view line = cpuinfo.substr(0, cpuinfo.find('\n'));
    cpuinfo.remove_prefix(std::min(cpuinfo.size(), line.size() + 1));
    const auto colon = line.find(':');
    if (colon != line.npos && trimmed(line.substr(0, colon)) == key) values.push_back(line.substr(colon + 1));
  }
  return values;
}

std::vector<int> processors_of(std::string_view cpuinfo) {
  std::vector<int> cpus;
  for (const std::string_view value : values_of(cpuinfo, "processor")) {
    const int64_t cpu = parse(value, 0, kMostCpus - 1, -1);
    if (cpu >= 0) cpus.push_back(static_cast<int>(cpu));
  }
  std::sort(cpus.begin(), cpus.end());
  cpus.erase(std::unique(cpus.begin(), cpus.end()), cpus.end());
  return cpus;
}

using Clusters = std::vector<std::vector<Cpu>>;

// Fastest first; empty if the speed of a CPU is unknown.
Clusters clusters_by(std::vector<Cpu> cpus, int64_t Cpu::* speed) {
  std::sort(cpus.begin(), cpus.end(), [speed](const Cpu& a, const Cpu& b) { return a.*speed > b.*speed; });
  if (cpus.empty() || cpus.back().*speed == 0) return {};
  Clusters clusters;
  for (const Cpu& cpu : cpus) {
    if (clusters.empty() || cpu.*speed * 10 < clusters.back().back().*speed * 9) clusters.emplace_back();
    clusters.back().push_back(cpu);
  }
  return clusters;
}

// The largest of a cluster; 0 unless all of them are known.
int64_t capacity_of(const std::vector<Cpu>& cluster) {
  int64_t capacity = 0;
  for (const Cpu& cpu : cluster) {
    if (cpu.capacity == 0) return 0;
    capacity = std::max(capacity, cpu.capacity);
  }
  return capacity;
}

}  // namespace

std::vector<int> Topology::big_cores() const {
  Clusters clusters;
  if (!x86) {
    clusters = clusters_by(cpus, &Cpu::max_khz);
    if (clusters.size() < 2) {
      Clusters by_capacity = clusters_by(cpus, &Cpu::capacity);
      if (by_capacity.size() > clusters.size()) clusters = std::move(by_capacity);
    }
  }
  if (clusters.size() < 2) clusters = {cpus};

  int64_t largest = 0;
  for (const auto& cluster : clusters) largest = std::max(largest, capacity_of(cluster));
  std::vector<int> big;
  for (size_t i = 0; i < clusters.size(); i++) {
    const int64_t capacity = capacity_of(clusters[i]);
    const bool slowest = i > 0 && i + 1 == clusters.size();
    if (slowest && (capacity == 0 || capacity * 4 < largest * 3)) continue;
    if (i > 0 && capacity != 0 && capacity * 2 < largest) continue;
    for (const Cpu& cpu : clusters[i]) big.push_back(cpu.cpu);
  }
  std::sort(big.begin(), big.end());
  return big;
}

Topology read_topology(const std::string& root) {
  const std::string folder = root + "/sys/devices/system/cpu/";
  const std::string cpuinfo = read_file(root + "/proc/cpuinfo", size_t{1} << 23);
  std::vector<int> numbers = parse_list(read_file(folder + "online", 4096));
  if (numbers.empty()) numbers = parse_list(read_file(folder + "possible", 4096));
  if (numbers.empty()) numbers = processors_of(cpuinfo);
  if (numbers.empty()) numbers = allowed_cpus();

  Topology topology;
  topology.x86 = !values_of(cpuinfo, "vendor_id").empty();  // a line of x86 alone
  for (const int cpu : numbers) {
    const std::string of_cpu = folder + "cpu" + std::to_string(cpu);
    topology.cpus.push_back({cpu, parse(read_file(of_cpu + "/cpufreq/cpuinfo_max_freq", 64), kLeastKhz, kMostKhz, 0),
                             parse(read_file(of_cpu + "/cpu_capacity", 64), 1, kMostCapacity, 0)});
  }
  return root == "/" ? restricted(topology, allowed_cpus()) : topology;
}

Topology restricted(const Topology& topology, const std::vector<int>& allowed) {
  Topology result;
  result.x86 = topology.x86;
  for (const Cpu& cpu : topology.cpus) {
    if (std::find(allowed.begin(), allowed.end(), cpu.cpu) != allowed.end()) result.cpus.push_back(cpu);
  }
  if (result.cpus.empty()) {
    for (const int cpu : allowed) result.cpus.push_back({cpu, 0, 0});
  }
  return result;
}

#if defined(__linux__)
namespace {

// A mask of any size: cpu_set_t ends at 1024 CPUs.
constexpr size_t kWordBits = 8 * sizeof(unsigned long);
using Mask = std::vector<unsigned long>;
cpu_set_t* set_of(Mask& mask) { return reinterpret_cast<cpu_set_t*>(mask.data()); }

}  // namespace

std::vector<int> allowed_cpus() {
  Mask mask(kMostCpus / kWordBits);
  std::vector<int> cpus;
  if (sched_getaffinity(0, mask.size() * sizeof mask[0], set_of(mask)) == 0) {
    for (size_t cpu = 0; cpu < kMostCpus; cpu++) {
      if (mask[cpu / kWordBits] >> (cpu % kWordBits) & 1) cpus.push_back(static_cast<int>(cpu));
    }
  }
  if (!cpus.empty()) return cpus;
  const int count = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  for (int cpu = 0; cpu < count; cpu++) cpus.push_back(cpu);
  return cpus;
}

bool run_on(const std::vector<int>& cpus) {
  Mask mask(kMostCpus / kWordBits);
  for (const int cpu : cpus) {
    if (cpu < 0 || cpu >= kMostCpus) return false;
    mask[static_cast<size_t>(cpu) / kWordBits] |= 1ul << (static_cast<size_t>(cpu) % kWordBits);
  }
  return sched_setaffinity(0, mask.size() * sizeof mask[0], set_of(mask)) == 0;
}

#else

std::vector<int> allowed_cpus() {
  const int count = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  std::vector<int> cpus;
  for (int cpu = 0; cpu < count; cpu++) cpus.push_back(cpu);
  return cpus;
}

bool run_on(const std::vector<int>&) { return false; }

#endif

}  // namespace sbk
