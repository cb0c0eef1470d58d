// The kernels for the avx2 tier; CMakeLists.txt has its flags.
#include "simd/avx2.h"

#include "isa/tables.h"
#include "kernels/instantiate.h"

namespace sbk {
const KernelTable& table_avx2() {
  static constexpr KernelTable table = make_table<Avx2>();
  return table;
}
}  // namespace sbk
