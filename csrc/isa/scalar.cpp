// The kernels for the scalar tier; CMakeLists.txt has its flags.
#include "simd/scalar.h"

#include "isa/tables.h"
#include "kernels/instantiate.h"

namespace sbk {
const KernelTable& table_scalar() {
  static constexpr KernelTable table = make_table<Scalar>();
  return table;
}
}  // namespace sbk
