// runtime/topology.h on trees like those of phones, and on broken ones.
#include "runtime/topology.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "support/check.h"

namespace {

using namespace test;
namespace fs = std::filesystem;
using List = std::vector<int>;

// A root folder with /sys and /proc of its own, removed at the end.
class Tree {
 public:
  Tree() {
    std::string name = (fs::temp_directory_path() / "sbk-topology-XXXXXX").string();
    root_ = mkdtemp(name.data()) != nullptr ? name : "";
    CHECK(!root_.empty());
  }
  ~Tree() {
    std::error_code ignored;
    if (!root_.empty()) fs::remove_all(root_, ignored);
  }
  Tree(const Tree&) = delete;
  Tree& operator=(const Tree&) = delete;

  Tree& file(const std::string& path, const std::string& content) {
    fs::create_directories(fs::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << content;
    return *this;
  }
  Tree& online(const std::string& list) { return file("/sys/devices/system/cpu/online", list + "\n"); }
  Tree& khz(int cpu, const std::string& value) {
    return file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/cpufreq/cpuinfo_max_freq", value + "\n");
  }
  Tree& capacity(int cpu, const std::string& value) {
    return file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/cpu_capacity", value + "\n");
  }
  // CPUs from 0 on, all online.
  Tree& all_khz(const List& values) {
    online("0-" + std::to_string(values.size() - 1));
    for (size_t i = 0; i < values.size(); i++) khz(static_cast<int>(i), std::to_string(values[i]));
    return *this;
  }
  Tree& all_capacities(const List& values) {
    for (size_t i = 0; i < values.size(); i++) capacity(static_cast<int>(i), std::to_string(values[i]));
    return *this;
  }

  sbk::Topology read() const { return sbk::read_topology(root_); }

 private:
  std::string root_;
};

std::string shown(const List& list) {
  std::string s;
  for (const int cpu : list) s.append(s.empty() ? "" : ",").append(std::to_string(cpu));
  return s;
}
std::string big(const Tree& tree) { return shown(tree.read().big_cores()); }
std::string known(const sbk::Topology& topology) {
  List cpus;
  for (const sbk::Cpu& cpu : topology.cpus) cpus.push_back(cpu.cpu);
  return shown(cpus);
}
std::string repeated(const std::string& line, int times) {
  std::string s;
  for (int i = 0; i < times; i++) s += line;
  return s;
}

TEST(phones) {
  Tree pixel3;  // Snapdragon 845
  pixel3.all_khz({1766400, 1766400, 1766400, 1766400, 2803200, 2803200, 2803200, 2803200});
  CHECK_EQ(big(pixel3), "4,5,6,7");
  pixel3.all_capacities({381, 381, 381, 381, 1024, 1024, 1024, 1024});
  CHECK_EQ(big(pixel3), "4,5,6,7");
  Tree prime;  // 1 + 3 + 4, as in Snapdragon 855
  prime.all_khz({1785600, 1785600, 1785600, 1785600, 2419200, 2419200, 2419200, 2841600});
  CHECK_EQ(big(prime), "4,5,6,7");
  prime.all_capacities({261, 261, 261, 261, 871, 871, 871, 1024});
  CHECK_EQ(big(prime), "4,5,6,7");
  Tree little_last;  // big cores need not come last
  little_last.all_khz({2400000, 2400000, 1900000, 1900000});
  CHECK_EQ(big(little_last), "0,1");
}

TEST(one_frequency_two_kinds_of_cores) {
  Tree helio;  // 4 Cortex-A73 and 4 Cortex-A53, all 2 GHz
  helio.all_khz({2000000, 2000000, 2000000, 2000000, 2000000, 2000000, 2000000, 2000000});
  CHECK_EQ(big(helio), "0,1,2,3,4,5,6,7");
  helio.all_capacities({480, 480, 480, 480, 1024, 1024, 1024, 1024});
  CHECK_EQ(big(helio), "4,5,6,7");
}

TEST(two_little_clusters) {
  Tree tree;  // 4 + 4 + 2
  tree.all_khz({1400000, 1400000, 1400000, 1400000, 2000000, 2000000, 2000000, 2000000, 2300000, 2300000});
  tree.all_capacities({300, 300, 300, 300, 430, 430, 430, 430, 1024, 1024});
  CHECK_EQ(big(tree), "8,9");
}

TEST(no_little_cores) {
  Tree tree;  // 6 + 2, as in Snapdragon 8 Elite
  tree.all_khz({3532800, 3532800, 3532800, 3532800, 3532800, 3532800, 4320000, 4320000});
  tree.all_capacities({840, 840, 840, 840, 840, 840, 1024, 1024});
  CHECK_EQ(big(tree), "0,1,2,3,4,5,6,7");
}

TEST(equal_and_nearly_equal) {
  Tree equal;
  equal.all_khz({2000000, 2000000, 2000000, 2000000});
  CHECK_EQ(big(equal), "0,1,2,3");
  Tree near;
  near.all_khz({2000000, 1990000, 1810000, 1800000});
  CHECK_EQ(big(near), "0,1,2,3");
  Tree apart;
  apart.all_khz({2000000, 2000000, 1799999, 1799999});
  CHECK_EQ(big(apart), "0,1");
  Tree one;
  one.all_khz({1000000});
  CHECK_EQ(big(one), "0");
}

TEST(x86_uses_all) {
  Tree hybrid;
  hybrid.all_khz({5200000, 5200000, 3900000, 3900000});
  CHECK_EQ(big(hybrid), "0,1");
  hybrid.file("/proc/cpuinfo", "processor\t: 0\nvendor_id\t: GenuineIntel\n");
  CHECK(hybrid.read().x86);
  CHECK_EQ(big(hybrid), "0,1,2,3");
}

TEST(capacity_where_frequencies_are_missing) {
  Tree tree;
  tree.online("0-3").all_capacities({446, 446, 1024, 1024});
  CHECK_EQ(big(tree), "2,3");
  tree.khz(0, "1800000").khz(1, "1800000");  // still missing for two
  CHECK_EQ(big(tree), "2,3");
  tree.capacity(3, "many");
  CHECK_EQ(big(tree), "0,1,2,3");
}

TEST(offline_cpus) {
  Tree tree;
  tree.all_khz({1700000, 1700000, 1700000, 1700000, 2800000, 2800000, 2800000, 2800000});
  tree.file("/sys/devices/system/cpu/possible", "0-7\n").online("0-2,4,6-7");
  CHECK_EQ(known(tree.read()), "0,1,2,4,6,7");
  CHECK_EQ(big(tree), "4,6,7");
  tree.online("0-3");  // all big cores asleep
  CHECK_EQ(big(tree), "0,1,2,3");
}

TEST(sources_in_their_order) {
  Tree possible;
  possible.file("/sys/devices/system/cpu/possible", "0-2\n");
  CHECK_EQ(known(possible.read()), "0,1,2");
  possible.online("0-9999999");
  CHECK_EQ(known(possible.read()), "0,1,2");
  Tree cpuinfo;
  cpuinfo.file("/proc/cpuinfo", "processor\t: 3\nBogoMIPS\t: 38\n\nprocessor\t: 1\nprocessor: x\nHardware : y\n:\n");
  CHECK_EQ(known(cpuinfo.read()), "1,3");
  CHECK_EQ(big(cpuinfo), "1,3");
}

TEST(garbage) {
  const std::string allowed = shown(sbk::allowed_cpus());
  Tree empty;
  CHECK_EQ(known(empty.read()), allowed);
  CHECK_EQ(big(empty), allowed);
  CHECK_EQ(shown(sbk::read_topology("/nonexistent/folder").big_cores()), allowed);
  CHECK_EQ(shown(sbk::read_topology("").big_cores()).empty(), false);
  for (const std::string list : {"", "\n", "x", "-", "-1", "1-", "3-1", "0-4096", "99999999999999999999", "0,,1",
                                 "0-1-2", "0;1", "0x3", "1e3", "0 1", "+1"}) {
    const Context where([&] { return "online: " + list; });
    Tree tree;
    tree.online(list);
    CHECK_EQ(known(tree.read()), allowed);
  }
  Tree binary;
  binary.online(std::string(100000, '\0')).file("/proc/cpuinfo", std::string("processor\0: 1\n\xff:\xff", 18));
  CHECK_EQ(known(binary.read()), allowed);
  Tree large;
  large.online(repeated("1,", 100000)).file("/proc/cpuinfo", repeated("processor : 5\n", 200000));
  CHECK_EQ(known(large.read()), "5");
  Tree folders;
  folders.file("/sys/devices/system/cpu/online/x", "").file("/proc/cpuinfo/x", "");
  CHECK_EQ(known(folders.read()), allowed);
}

TEST(absurd_speeds) {
  for (const std::string value :
       {"", "fast", "0", "-1", "1", "99999999999", "9223372036854775808", "1800000 kHz", "1.8e6", "<unknown>"}) {
    const Context where([&] { return "cpuinfo_max_freq: " + value; });
    Tree tree;
    tree.all_khz({1800000, 1800000, 2800000, 2800000}).khz(3, value);
    CHECK_EQ(tree.read().cpus[3].max_khz, 0);
    CHECK_EQ(big(tree), "0,1,2,3");
    tree.all_capacities({400, 400, 1024, 1024}).capacity(2, value);
    CHECK(tree.read().cpus[2].capacity <= 1);
  }
}

TEST(restricted_to_allowed_cpus) {
  Tree tree;
  tree.all_khz({1700000, 1700000, 2800000, 2800000});
  const sbk::Topology all = tree.read();
  CHECK_EQ(shown(sbk::restricted(all, {0, 1, 2}).big_cores()), "2");
  CHECK_EQ(shown(sbk::restricted(all, {0, 1}).big_cores()), "0,1");
  CHECK_EQ(shown(sbk::restricted(all, {8, 9}).big_cores()), "8,9");  // a tree that is not of this system
}

TEST(this_machine) {
  const List allowed = sbk::allowed_cpus();
  const sbk::Topology topology = sbk::read_topology();
  CHECK(!topology.cpus.empty() && topology.cpus.size() <= allowed.size());
  CHECK(!topology.big_cores().empty());
  // In a thread, so that the others may run anywhere.
  std::string restricted = std::to_string(allowed.back());
  std::thread([&] {
    if (sbk::run_on({allowed.back()})) restricted = shown(sbk::read_topology().big_cores());
  }).join();
  CHECK_EQ(restricted, std::to_string(allowed.back()));
}

}  // namespace
