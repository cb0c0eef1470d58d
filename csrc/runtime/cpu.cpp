#include "runtime/cpu.h"

#include <cstdlib>

#include "isa/tables.h"

#if defined(SBK_HAVE_ARM_TIERS) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(SBK_HAVE_ARM_TIERS)
#include <sys/auxv.h>
#endif

namespace sbk {
namespace {

// What the conditions of isa/tiers.inc ask for.
#if defined(SBK_HAVE_X86_TIERS)
struct CpuFeatures {
  bool avx2, avx512, vnni, bf16;  // avx2 with fma, avx512 with bw, dq, vl and fma
};

// The builtin asks CPUID and, for the wide registers, whether the operating system saves them.
CpuFeatures cpu_features() {
  __builtin_cpu_init();
  return {__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"),
          __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"),
          __builtin_cpu_supports("avx512vnni") != 0, __builtin_cpu_supports("avx512bf16") != 0};
}
#elif defined(SBK_HAVE_ARM_TIERS)
struct CpuFeatures {
  bool fp16, dot, bf16, i8mm;
};

#if defined(__APPLE__)
CpuFeatures cpu_features() {
  const auto has = [](const char* feature) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(feature, &value, &size, nullptr, 0) == 0 && value != 0;
  };
  return {has("hw.optional.arm.FEAT_FP16"), has("hw.optional.arm.FEAT_DotProd"), has("hw.optional.arm.FEAT_BF16"),
          has("hw.optional.arm.FEAT_I8MM")};
}
#else
// The kernel reports what every core of the machine has. The bits are those of <asm/hwcap.h>, which older systems have
// without the last two.
CpuFeatures cpu_features() {
  const unsigned long hwcap = getauxval(AT_HWCAP), hwcap2 = getauxval(AT_HWCAP2);
  constexpr unsigned long kFPHP = 1ul << 9, kASIMDHP = 1ul << 10, kASIMDDP = 1ul << 20;  // of AT_HWCAP
  constexpr unsigned long kI8MM = 1ul << 13, kBF16 = 1ul << 14;                          // of AT_HWCAP2
  return {(hwcap & kFPHP) && (hwcap & kASIMDHP), (hwcap & kASIMDDP) != 0, (hwcap2 & kBF16) != 0, (hwcap2 & kI8MM) != 0};
}
#endif
#else
struct CpuFeatures {};
CpuFeatures cpu_features() { return {}; }
#endif

std::vector<const KernelTable*> find_tables() {
  std::vector<const KernelTable*> tables;
  [[maybe_unused]] const CpuFeatures cpu = cpu_features();
#define SBK_TIER(name, architecture, condition) SBK_IF_##architecture(if (condition) tables.push_back(&table_##name());)
#include "isa/tiers.inc"
  return tables;
}

struct Choice {
  const KernelTable* table = nullptr;
  std::string error;
};

Choice choose() {
  Choice choice;
  const char* wanted = std::getenv("SBK_ISA");
  if (wanted == nullptr || *wanted == '\0') {
    choice.table = available_tables().back();
    return choice;
  }
  choice.table = find_table(wanted);
  if (choice.table == nullptr) {
    std::string possible;
    for (const KernelTable* table : available_tables()) {
      possible += (possible.empty() ? "" : ", ") + std::string(table->isa);
    }
    choice.error = "SBK_ISA='" + std::string(wanted) + "' is not possible on this machine; possible: " + possible;
  }
  return choice;
}

}  // namespace

const std::vector<const KernelTable*>& available_tables() {
  static const std::vector<const KernelTable*> tables = find_tables();
  return tables;
}

const KernelTable* find_table(const std::string& isa) {
  for (const KernelTable* table : available_tables()) {
    if (isa == table->isa) return table;
  }
  return nullptr;
}

const KernelTable* active_table(std::string* error) {
  static const Choice choice = choose();
  if (choice.table == nullptr && error != nullptr) *error = choice.error;
  return choice.table;
}

const LowPrecision* low_precision(const KernelTable& table, Compute compute) {
  switch (compute) {
    case Compute::bfloat16:
      return &table.bfloat16;
    case Compute::int8:
      return &table.int8;
    case Compute::float16:
      return &table.float16;
    default:
      return nullptr;
  }
}

}  // namespace sbk
