// AVX-512 F, BW, DQ, VL (Skylake-X on). tiers.inc has the flags.
#include "simd/avx512.h"

#include "isa/instantiate.h"
#include "isa/tables.h"

namespace sbk {
const KernelTable& table_avx512() {
  static constexpr KernelTable table =
      make_table<Avx512, RoundedBF16<Avx512>, Avx512Int8, RoundedFP16<Avx512>>("avx512");
  return table;
}
}  // namespace sbk
