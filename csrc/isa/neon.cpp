// AArch64, armv8.0. tiers.inc has the flags.
#include "simd/neon.h"

#include "isa/instantiate.h"
#include "isa/tables.h"

namespace sbk {
const KernelTable& table_neon() {
  static constexpr KernelTable table = make_table<Neon, RoundedBF16<Neon>, WideInt8<Neon>, RoundedFP16<Neon>>("neon");
  return table;
}
}  // namespace sbk
