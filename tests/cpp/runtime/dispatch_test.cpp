// runtime/cpu.h: which table is used. ctest runs it once for every value of SBK_ISA, each in a process of its own,
// since the variable is read once.
#include <cstdlib>
#include <cstring>
#include <string>

#include "runtime/cpu.h"
#include "support/check.h"

namespace {

TEST(available_tables_are_complete_and_distinct) {
  const auto& tables = sbk::available_tables();
  CHECK(!tables.empty());
  CHECK_EQ(std::string(tables.front()->isa), "scalar");
  for (size_t i = 0; i < tables.size(); i++) {
    const sbk::KernelTable& t = *tables[i];
    CHECK(t.conv && t.layer_norm && t.transpose && t.attention && t.attention_scratch);
    CHECK(t.lanes >= 1 && t.tile_rows >= 1 && t.tile_vectors >= 1);
    for (size_t j = 0; j < i; j++) {
      CHECK(std::strcmp(t.isa, tables[j]->isa) != 0);
      CHECK(t.conv != tables[j]->conv);
    }
  }
}

TEST(sbk_isa_is_obeyed) {
  const char* wanted = std::getenv("SBK_ISA");
  const bool forced = wanted != nullptr && *wanted != '\0';
  const sbk::KernelTable* expected = forced ? nullptr : sbk::available_tables().back();
  for (const sbk::KernelTable* t : sbk::available_tables()) {
    if (forced && std::string(wanted) == t->isa) expected = t;
  }
  std::string error;
  CHECK(sbk::active_table(&error) == expected);
  CHECK(sbk::active_table() == expected);
  CHECK_EQ(error.empty(), expected != nullptr);
  if (expected != nullptr) return;
  // The message names the value and everything that would have been possible.
  CHECK(error.find(wanted) != std::string::npos);
  for (const sbk::KernelTable* t : sbk::available_tables()) CHECK(error.find(t->isa) != std::string::npos);
}

// Where the CPU is known (an emulator plays it), so is what must come of it: a tier, or "none" for an error.
TEST(the_expected_tier_is_chosen) {
  const char* expected = std::getenv("SBK_EXPECT_ISA");
  if (expected == nullptr) return;
  const sbk::KernelTable* chosen = sbk::active_table();
  CHECK_EQ(std::string(chosen == nullptr ? "none" : chosen->isa), std::string(expected));
}

}  // namespace
