// The kernels for the avx512 tier; CMakeLists.txt has its flags.
#include "simd/avx512.h"

#include "isa/tables.h"
#include "kernels/instantiate.h"

namespace sbk {
const KernelTable& table_avx512() {
  static constexpr KernelTable table = make_table<Avx512>();
  return table;
}
}  // namespace sbk
