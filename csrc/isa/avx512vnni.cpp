// AVX-512 with VNNI (Cascade Lake, Ice Lake on). tiers.inc has the flags.
#include "simd/avx512vnni.h"

#include "isa/instantiate.h"
#include "isa/tables.h"

namespace sbk {
const KernelTable& table_avx512vnni() {
  static constexpr KernelTable table =
      make_table<Avx512, RoundedBF16<Avx512>, VnniInt8, RoundedFP16<Avx512>>("avx512vnni");
  return table;
}
}  // namespace sbk
