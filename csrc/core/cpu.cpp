#include "core/cpu.h"

#include <cstdlib>

#include "isa/tables.h"

namespace sbk {
namespace {

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
  tables.push_back(&table_neon());  // part of every AArch64
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
  std::string possible;
  for (const KernelTable* table : available_tables()) {
    if (std::string(wanted) == table->isa) choice.table = table;
    possible += (possible.empty() ? "" : ", ") + std::string(table->isa);
  }
  if (choice.table == nullptr) {
    choice.error = "SBK_ISA='" + std::string(wanted) + "' is not possible on this machine; possible: " + possible;
  }
  return choice;
}

}  // namespace

const std::vector<const KernelTable*>& available_tables() {
  static const std::vector<const KernelTable*> tables = find_tables();
  return tables;
}

const KernelTable* active_table(std::string* error) {
  static const Choice choice = choose();
  if (choice.table == nullptr && error != nullptr) *error = choice.error;
  return choice.table;
}

}  // namespace sbk
