// AArch64 with FEAT_FP16, FEAT_DotProd, FEAT_BF16 and FEAT_I8MM (Cortex-X2 and A710, Apple M2 on). CMakeLists.txt has
// the flags.
#include "simd/neoni8mm.h"
#include "simd/neonbf16.h"
#include "simd/neonfp16.h"

#include "isa/instantiate.h"
#include "isa/tables.h"

namespace sbk {
const KernelTable& table_neoni8mm() {
  static constexpr KernelTable table = make_table<Neon, NeonBF16, NeonI8MM, NeonFP16>("neoni8mm");
  return table;
}
}  // namespace sbk
