// AVX2 + FMA. tiers.inc has the flags.
#include "simd/avx2.h"

#include "isa/instantiate.h"
#include "isa/tables.h"

namespace sbk {
const KernelTable& table_avx2() {
  static constexpr KernelTable table = make_table<Avx2, RoundedBF16<Avx2>, Avx2Int8, RoundedFP16<Avx2>>("avx2");
  return table;
}
}  // namespace sbk
