// AArch64 with FEAT_FP16 and FEAT_DotProd (Cortex-A76, Apple A13 on). tiers.inc has the flags.
#include "simd/neondot.h"
#include "simd/neonfp16.h"

#include "isa/instantiate.h"
#include "isa/tables.h"

namespace sbk {
const KernelTable& table_neondot() {
  static constexpr KernelTable table = make_table<Neon, RoundedBF16<Neon>, NeonDot, NeonFP16>("neondot");
  return table;
}
}  // namespace sbk
