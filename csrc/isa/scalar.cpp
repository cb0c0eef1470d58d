// Plain C++, for any CPU. tiers.inc has the flags.
#include "simd/scalar.h"

#include "isa/instantiate.h"
#include "isa/tables.h"

namespace sbk {
const KernelTable& table_scalar() {
  static constexpr KernelTable table =
      make_table<Scalar, RoundedBF16<Scalar>, WideInt8<Scalar>, RoundedFP16<Scalar>>("scalar");
  return table;
}
}  // namespace sbk
