// The kernels for the neon tier; CMakeLists.txt has its flags.
#include "simd/neon.h"

#include "isa/tables.h"
#include "kernels/instantiate.h"

namespace sbk {
const KernelTable& table_neon() {
  static constexpr KernelTable table = make_table<Neon>();
  return table;
}
}  // namespace sbk
