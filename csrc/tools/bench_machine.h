// sbk-bench: what the machine says of itself. Whatever cannot be read is empty or 0; nothing here fails.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "tools/command.h"

namespace sbk::tools {

struct MachineCpu {
  int cpu;
  int64_t max_khz;   // 0: unknown
  int64_t capacity;  // 0: unknown
  std::string name;  // "Cortex-A76", "0x51 0x802"
};

struct Machine {
  std::string model;     // of the device or of the CPU
  std::string system;    // kernel and architecture
  std::string compiler;  // that built this program
  std::vector<std::string> features;
  std::vector<MachineCpu> cpus;  // that this process may use, in order of their numbers
};

Machine read_machine();

// Its clock now, from scaling_cur_freq; 0: unknown.
int64_t current_khz(int cpu);

// "0-3,6" from {0, 1, 2, 3, 6}, and back. Throws UsageError.
std::string list_text(const std::vector<int>& cpus);
std::vector<int> parse_cpu_list(const std::string& text);

}  // namespace sbk::tools
