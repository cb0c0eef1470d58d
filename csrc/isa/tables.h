// isa/ is the room of the instruction set tiers: their list (tiers.inc), and a file each that instantiates kernels/ for
// the tier, compiled with its flags.
//
// This file: one kernel table per tier. Calling into one on a CPU without its instructions is an illegal instruction:
// runtime/cpu.h chooses.
#pragma once
#include "kernels/table.h"

// SBK_IF_<architecture of tiers.inc>(code): the code, in a build that has tiers of this architecture. CMake says so.
#define SBK_IF_any(...) __VA_ARGS__
#if defined(SBK_HAVE_X86_TIERS)
#define SBK_IF_x86(...) __VA_ARGS__
#else
#define SBK_IF_x86(...)
#endif
#if defined(SBK_HAVE_ARM_TIERS)
#define SBK_IF_arm(...) __VA_ARGS__
#else
#define SBK_IF_arm(...)
#endif

namespace sbk {
// table_scalar(), ...; only those of this build are defined.
#define SBK_TIER(name, architecture, condition) const KernelTable& table_##name();
#include "isa/tiers.inc"
}  // namespace sbk
