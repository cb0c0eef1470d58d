#include "tools/bench_machine.h"

#include <sys/utsname.h>

#include <algorithm>
#include <cstdio>
#include <map>

#include "runtime/topology.h"

#if defined(__linux__) && defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace sbk::tools {
namespace {

struct Named {
  int64_t id;
  const char* name;
};

// The start of a file; reading never waits for more.
std::string read_start(const std::string& path, size_t limit) {
  std::string text(limit, '\0');
  std::FILE* file = std::fopen(path.c_str(), "re");
  if (file == nullptr) return "";
  text.resize(std::fread(text.data(), 1, limit, file));
  std::fclose(file);
  return text;
}

std::string trimmed(std::string text) {
  const auto strange = [](char c) { return static_cast<unsigned char>(c) <= ' '; };
  while (!text.empty() && strange(text.back())) text.pop_back();
  while (!text.empty() && strange(text.front())) text.erase(0, 1);
  return text;
}

int64_t number_or_zero(const std::string& text) {
  char* end = nullptr;
  const std::string digits = trimmed(text);
  const int64_t value = std::strtoll(digits.c_str(), &end, 0);
  return digits.empty() || *end != '\0' || value < 0 ? 0 : value;
}

// implementer << 12 | part, of /proc/cpuinfo.
constexpr Named kParts[] = {
    {0x41d03, "Cortex-A53"},      {0x41d04, "Cortex-A35"},    {0x41d05, "Cortex-A55"},      {0x41d07, "Cortex-A57"},
    {0x41d08, "Cortex-A72"},      {0x41d09, "Cortex-A73"},    {0x41d0a, "Cortex-A75"},      {0x41d0b, "Cortex-A76"},
    {0x41d0c, "Neoverse-N1"},     {0x41d0d, "Cortex-A77"},    {0x41d40, "Neoverse-V1"},     {0x41d41, "Cortex-A78"},
    {0x41d44, "Cortex-X1"},       {0x41d46, "Cortex-A510"},   {0x41d47, "Cortex-A710"},     {0x41d48, "Cortex-X2"},
    {0x41d49, "Neoverse-N2"},     {0x41d4d, "Cortex-A715"},   {0x41d4e, "Cortex-X3"},       {0x41d4f, "Neoverse-V2"},
    {0x41d80, "Cortex-A520"},     {0x41d81, "Cortex-A720"},   {0x41d82, "Cortex-X4"},       {0x51800, "Kryo 2xx Gold"},
    {0x51801, "Kryo 2xx Silver"}, {0x51802, "Kryo 3xx Gold"}, {0x51803, "Kryo 3xx Silver"}, {0x51804, "Kryo 4xx Gold"},
    {0x51805, "Kryo 4xx Silver"}, {0x51001, "Oryon"}};

struct CpuInfo {
  std::string model;  // "model name" or "Hardware"
  std::map<int, std::string> names;
};

CpuInfo read_cpuinfo() {
  CpuInfo info;
  const std::string text = read_start("/proc/cpuinfo", size_t{1} << 20);
  int cpu = -1;
  int64_t implementer = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const std::string key = trimmed(line.substr(0, colon)), value = trimmed(line.substr(colon + 1));
    if (key == "processor") cpu = static_cast<int>(std::min<int64_t>(number_or_zero(value), 1 << 16));
    if (key == "model name" || key == "Hardware") info.model = value;
    if (key == "CPU implementer") implementer = number_or_zero(value);
    if (key != "CPU part" || cpu < 0) continue;
    const int64_t id = implementer << 12 | (number_or_zero(value) & 0xfff);
    std::string name;
    for (const Named& part : kParts) {
      if (part.id == id) name = part.name;
    }
    if (name.empty()) {
      char hex[48];
      std::snprintf(hex, sizeof hex, "0x%llx 0x%llx", static_cast<unsigned long long>(implementer & 0xff),
                    static_cast<unsigned long long>(id & 0xfff));
      name = hex;
    }
    info.names[cpu] = name;
  }
  return info;
}

#if defined(__ANDROID__) || defined(__linux__)
// A property of Android; "" elsewhere. A static program has no other way to ask.
std::string android_property(const char* name) {
  std::FILE* android = std::fopen("/system/build.prop", "re");
  std::FILE* shell = std::fopen("/system/bin/getprop", "re");
  const bool is_android = android != nullptr || shell != nullptr;
  if (android != nullptr) std::fclose(android);
  if (shell != nullptr) std::fclose(shell);
  if (!is_android) return "";
  std::FILE* pipe = popen((std::string("/system/bin/getprop ") + name + " 2>/dev/null").c_str(), "r");
  if (pipe == nullptr) return "";
  char line[128] = "";
  if (std::fgets(line, sizeof line, pipe) == nullptr) line[0] = '\0';
  pclose(pipe);
  return trimmed(line);
}
#else
std::string android_property(const char*) { return ""; }
#endif

std::string device_model(const std::string& of_cpuinfo) {
  const std::string android = android_property("ro.product.model");
  if (!android.empty()) {
    const std::string maker = android_property("ro.product.manufacturer"), chip = android_property("ro.soc.model");
    const std::string release = android_property("ro.build.version.release");
    return maker + " " + android + (chip.empty() ? "" : ", " + chip) + (release.empty() ? "" : ", Android " + release);
  }
  const std::string board = trimmed(read_start("/proc/device-tree/model", 256).c_str());  // ends with a 0
  if (!board.empty()) return board;
  return of_cpuinfo;
}

std::vector<std::string> read_features() {
  std::vector<std::string> found;
#if defined(__linux__) && defined(__aarch64__)
  // Bits of <asm/hwcap.h> that matter here; systems' headers may lack the later ones.
  constexpr Named first[] = {{1, "asimd"},         {1 << 9, "fphp"}, {1 << 10, "asimdhp"}, {1 << 12, "asimdrdm"},
                             {1 << 20, "asimddp"}, {1 << 22, "sve"}, {1 << 23, "asimdfhm"}};
  constexpr Named second[] = {{1 << 1, "sve2"}, {1 << 13, "i8mm"}, {1 << 14, "bf16"}, {1 << 23, "sme"}};
  const auto hwcap = static_cast<int64_t>(getauxval(AT_HWCAP)), hwcap2 = static_cast<int64_t>(getauxval(AT_HWCAP2));
  for (const Named& bit : first) {
    if (hwcap & bit.id) found.emplace_back(bit.name);
  }
  for (const Named& bit : second) {
    if (hwcap2 & bit.id) found.emplace_back(bit.name);
  }
  char raw[64];
  std::snprintf(raw, sizeof raw, "hwcap=0x%llx", static_cast<unsigned long long>(hwcap));
  found.emplace_back(raw);
  std::snprintf(raw, sizeof raw, "hwcap2=0x%llx", static_cast<unsigned long long>(hwcap2));
  found.emplace_back(raw);
#elif defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) found.emplace_back("avx2");
  if (__builtin_cpu_supports("fma")) found.emplace_back("fma");
  if (__builtin_cpu_supports("avx512f")) found.emplace_back("avx512f");
  if (__builtin_cpu_supports("avx512bw")) found.emplace_back("avx512bw");
  if (__builtin_cpu_supports("avx512vnni")) found.emplace_back("avx512vnni");
  if (__builtin_cpu_supports("avx512bf16")) found.emplace_back("avx512bf16");
#endif
  return found;
}

}  // namespace

Machine read_machine() {
  Machine machine;
  const CpuInfo cpuinfo = read_cpuinfo();
  machine.model = device_model(cpuinfo.model);
  utsname names{};
  if (uname(&names) == 0) machine.system = std::string(names.sysname) + " " + names.release + " " + names.machine;
#if defined(__clang__)
  machine.compiler = std::string("clang ") + __clang_version__;
#else
  machine.compiler = std::string("gcc ") + __VERSION__;
#endif
  machine.features = read_features();
  for (const Cpu& cpu : read_topology().cpus) {
    const auto name = cpuinfo.names.find(cpu.cpu);
    machine.cpus.push_back(
        {cpu.cpu, cpu.max_khz, cpu.capacity, name != cpuinfo.names.end() ? name->second : std::string()});
  }
  return machine;
}

int64_t current_khz(int cpu) {
  return number_or_zero(
      read_start("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/cpufreq/scaling_cur_freq", 64));
}

std::string list_text(const std::vector<int>& cpus) {
  std::string text;
  for (size_t i = 0; i < cpus.size();) {
    size_t last = i;
    while (last + 1 < cpus.size() && cpus[last + 1] == cpus[last] + 1) last++;
    if (!text.empty()) text += ',';
    text += std::to_string(cpus[i]);
    if (last > i) text.append("-").append(std::to_string(cpus[last]));
    i = last + 1;
  }
  return text;
}

std::vector<int> parse_cpu_list(const std::string& text) {
  std::vector<int> cpus;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string range = text.substr(begin, end - begin);
    const size_t dash = range.find('-');
    const int64_t first = parse_number("--cpus", range.substr(0, dash), 0, 4095);
    const int64_t last = dash == range.npos ? first : parse_number("--cpus", range.substr(dash + 1), first, 4095);
    for (int64_t cpu = first; cpu <= last; cpu++) cpus.push_back(static_cast<int>(cpu));
    begin = end + 1;
  }
  std::sort(cpus.begin(), cpus.end());
  cpus.erase(std::unique(cpus.begin(), cpus.end()), cpus.end());
  return cpus;
}

}  // namespace sbk::tools
