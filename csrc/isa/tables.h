// One kernel table per ISA tier. Which of them a build has is CMake's decision (SBK_HAVE_*); calling into one on a CPU
// without its instructions is an illegal instruction: runtime/cpu.h chooses.
#pragma once
#include "kernels/table.h"

namespace sbk {
const KernelTable& table_scalar();
const KernelTable& table_avx2();
const KernelTable& table_avx512();
const KernelTable& table_avx512vnni();
const KernelTable& table_avx512bf16();
const KernelTable& table_neon();
const KernelTable& table_neonfp16();
const KernelTable& table_neondot();
const KernelTable& table_neoni8mm();
}  // namespace sbk
