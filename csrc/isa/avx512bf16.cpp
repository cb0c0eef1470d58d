// AVX-512 with VNNI and BF16 (Cooper Lake, Sapphire Rapids, Zen 4 on). tiers.inc has the flags.
#include "simd/avx512bf16.h"
#include "simd/avx512vnni.h"

#include "isa/instantiate.h"
#include "isa/tables.h"

namespace sbk {
const KernelTable& table_avx512bf16() {
  static constexpr KernelTable table = make_table<Avx512, DotBF16, VnniInt8, RoundedFP16<Avx512>>("avx512bf16");
  return table;
}
}  // namespace sbk
