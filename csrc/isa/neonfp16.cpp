// AArch64 with FEAT_FP16 (Cortex-A75 and Kryo 385 on). tiers.inc has the flags.
#include "simd/neonfp16.h"

#include "isa/instantiate.h"
#include "isa/tables.h"

namespace sbk {
const KernelTable& table_neonfp16() {
  static constexpr KernelTable table = make_table<Neon, RoundedBF16<Neon>, WideInt8<Neon>, NeonFP16>("neonfp16");
  return table;
}
}  // namespace sbk
