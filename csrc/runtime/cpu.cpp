#include "runtime/cpu.h"

#include <cstdlib>

#include "isa/tables.h"

#if defined(SBK_HAVE_NEON) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(SBK_HAVE_NEON)
#include <sys/auxv.h>
#endif

namespace sbk {
namespace {

#if defined(SBK_HAVE_NEON)
struct ArmFeatures {
  bool fp16, dot, bf16, i8mm;
};

#if defined(__APPLE__)
ArmFeatures arm_features() {
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
ArmFeatures arm_features() {
  const unsigned long hwcap = getauxval(AT_HWCAP), hwcap2 = getauxval(AT_HWCAP2);
  constexpr unsigned long kFPHP = 1ul << 9, kASIMDHP = 1ul << 10, kASIMDDP = 1ul << 20;  // of AT_HWCAP
  constexpr unsigned long kI8MM = 1ul << 13, kBF16 = 1ul << 14;                          // of AT_HWCAP2
  return {(hwcap & kFPHP) && (hwcap & kASIMDHP), (hwcap & kASIMDDP) != 0, (hwcap2 & kBF16) != 0, (hwcap2 & kI8MM) != 0};
}
#endif
#endif

std::vector<const KernelTable*> find_tables() {
  std::vector<const KernelTable*> tables{&table_scalar()};
#if defined(SBK_HAVE_AVX2)
  // The builtin asks CPUID and, for the wide registers, whether the operating system saves them.
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) tables.push_back(&table_avx2());
#endif
#if defined(SBK_HAVE_AVX512)
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("fma");
  const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  if (avx512) tables.push_back(&table_avx512());
  if (vnni) tables.push_back(&table_avx512vnni());
  if (vnni && __builtin_cpu_supports("avx512bf16")) tables.push_back(&table_avx512bf16());
#endif
#if defined(SBK_HAVE_NEON)
  const ArmFeatures arm = arm_features();
  tables.push_back(&table_neon());  // part of every AArch64
  if (arm.fp16) tables.push_back(&table_neonfp16());
  if (arm.fp16 && arm.dot) tables.push_back(&table_neondot());
  if (arm.fp16 && arm.dot && arm.bf16 && arm.i8mm) tables.push_back(&table_neoni8mm());
#endif
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
