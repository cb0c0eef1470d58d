// KernelTable::attention against the oracle: shapes, strides and masks. Special values are in
// attention_special_test.cpp.
#include <cmath>
#include <limits>

#include "attention_case.h"
#include "support/check.h"
#include "support/shapes.h"

namespace {

using namespace test;

constexpr MaskKind kMasks[] = {MaskKind::none, MaskKind::shared, MaskKind::full};

TEST(remainders_in_every_dimension) {
  const int64_t lanes = table.lanes;
  int next = 0;
  // query_block is 24.
  for (const int64_t rows :
       sizes({0, 1, 2, table.tile_rows - 1, table.tile_rows, table.tile_rows + 1, 23, 24, 25, 49}, 0)) {
    for (const int64_t keys :
         sizes({1, 2, 3, 7, lanes - 1, lanes, lanes + 1, 2 * lanes + 1, table.tile_vectors * lanes + 1})) {
      for (const int64_t d : sizes({1, 2, 3, 4, 5, lanes - 1, lanes, lanes + 1, table.tile_vectors * lanes + 3, 32})) {
        for (const Flush flush : kBothEnds) {
          next++;
          AttentionCase c{rows, keys, d, kMasks[next % 3], flush};
          c.gap = next / 3 % 2 * 3;
          c.tight_keys = next / 6 % 2 == 0;
          run_attention(table, c);
        }
      }
    }
  }
}

// key_block is 512: more keys than that need the running maximum.
TEST(several_blocks_of_keys) {
  for (const int64_t keys : {511, 512, 513, 527, 1023, 1024, 1025, 1537}) {
    for (const int64_t rows : {1, 5, 25}) {
      for (const int64_t d : {3, 16, 17}) {
        for (const MaskKind mask : kMasks) {
          for (const Flush flush : kBothEnds) run_attention(table, {rows, keys, d, mask, flush});
        }
      }
    }
  }
}

TEST(sizes_of_real_networks) {
  for (const MaskKind mask : kMasks) {
    run_attention(table, {128, 128, 64, mask, Flush::end});
    run_attention(table, {31, 384, 32, mask, Flush::start});
  }
}

// Scores between -60 and 60: most probabilities vanish, the maximum moves from block to block.
TEST(large_scores) {
  for (const int64_t keys : {40, 700, 1100}) {
    AttentionCase c{9, keys, 8, MaskKind::full, Flush::end};
    c.spread = 40;
    run_attention(table, c);
  }
}

// The largest score is in the first, the middle or the last block, and far above the rest.
TEST(maximum_in_any_block) {
  for (const int64_t keys : {1300}) {
    for (const int64_t peak : {0, 511, 512, 800, 1023, 1024, 1299}) {
      for (const float height : {5.0f, 30.0f, 200.0f}) {
        AttentionCase c{3, keys, 7, MaskKind::full, Flush::end};
        c.change = [=](AttentionInputs& in) {
          for (int64_t r = 0; r < 3; r++) in.mask.at(r, peak) = height;
        };
        run_attention(table, c);
      }
    }
  }
}

}  // namespace
