// KernelTable::attention with NaN, infinities and whole blocks masked away.
#include <cmath>
#include <limits>
#include <vector>

#include "attention_case.h"
#include "support/check.h"
#include "support/shapes.h"

namespace {

using namespace test;

const float kNan = std::numeric_limits<float>::quiet_NaN();
const float kLowest = std::numeric_limits<float>::lowest();

// All of a mask's rows [first, last) x keys [begin, end).
void set(Matrix& mask, int64_t first, int64_t last, int64_t begin, int64_t end, float value) {
  for (int64_t r = first; r < last; r++) {
    for (int64_t j = begin; j < end; j++) mask.at(r, j) = value;
  }
}

const int64_t kKeys[] = {1, 5, 16, 33, 512, 513, 1100};

// A score plus the lowest float is the lowest float: all keys are equally likely, as in torch. In float64 the scores
// would still differ, so what is expected is said here.
TEST(lowest_mask_everywhere_gives_uniform_probabilities) {
  for (const int64_t keys : kKeys) {
    AttentionCase c{5, keys, 6, MaskKind::full};
    c.change = [&](AttentionInputs& in) { set(in.mask, 1, 4, 0, keys, kLowest); };
    c.expect = [&](Reals& want, const AttentionInputs& in) {
      for (int64_t i = 0; i < 6; i++) {
        double mean = 0, size = 0;
        for (int64_t j = 0; j < keys; j++) {
          mean += in.v.at(j, i) / static_cast<double>(keys);
          size += std::fabs(in.v.at(j, i)) / static_cast<double>(keys);
        }
        for (int64_t r = 1; r < 4; r++)
          want.at(r, i) = {mean, static_cast<double>(keys + 2) * kUnit * (size + std::fabs(mean))};
      }
    };
    run_attention(table, c);
  }
}

TEST(infinite_mask_everywhere_gives_nan_in_that_row_alone) {
  for (const int64_t keys : kKeys) {
    AttentionCase c{26, keys, 6, MaskKind::full};
    c.change = [&](AttentionInputs& in) {
      set(in.mask, 3, 5, 0, keys, -INFINITY), set(in.mask, 25, 26, 0, keys, -INFINITY);
    };
    c.expect = [](Reals& want, const AttentionInputs&) {
      for (int64_t i = 0; i < 6; i++) CHECK(std::isnan(want.at(3, i).value) && !std::isnan(want.at(2, i).value));
    };
    run_attention(table, c);
  }
}

// Blocks of 512 keys that are masked away before, between or after blocks that are not.
TEST(masked_blocks_of_keys) {
  for (const float value : {-INFINITY, kLowest}) {
    for (const int64_t keys : {600, 1100, 1600}) {
      for (int blocks = 1; blocks < 15; blocks++) {  // one bit per block that is masked
        AttentionCase c{4, keys, 5, MaskKind::full};
        bool any_left = false;
        c.change = [&](AttentionInputs& in) {
          for (int64_t b = 0; b * 512 < keys; b++) {
            const int64_t end = std::min<int64_t>(keys, b * 512 + 512);
            if (blocks >> b & 1) {
              set(in.mask, 0, 4, b * 512, end, value);
            } else {
              set(in.mask, 0, 4, b * 512 + 3, b * 512 + 4, 0.5f);  // at least one key of the block stays
              any_left = true;
            }
          }
          // Scores beside a lowest mask must not differ by more than that mask can express.
          if (!any_left) set(in.mask, 0, 4, 0, 1, 0.0f);
        };
        run_attention(table, c);
      }
    }
  }
}

TEST(only_the_last_key_is_left) {
  for (const int64_t keys : kKeys) {
    AttentionCase c{2, keys, 9, MaskKind::full};
    c.change = [&](AttentionInputs& in) {
      set(in.mask, 0, 1, 0, keys - 1, -INFINITY), set(in.mask, 1, 2, 0, keys - 1, kLowest);
      set(in.mask, 0, 2, keys - 1, keys, -2.0f);
    };
    c.expect = [&](Reals& want, const AttentionInputs& in) {
      for (int64_t i = 0; i < 9; i++) CHECK(std::fabs(want.at(0, i).value - in.v.at(keys - 1, i)) < 1e-12);
    };
    run_attention(table, c);
  }
}

// A NaN anywhere in a row of q or of the mask makes that row of the context NaN and no other.
TEST(nan_poisons_exactly_its_row) {
  for (const int64_t keys : kKeys) {
    for (const int64_t at : {int64_t{0}, keys / 2, keys - 1}) {
      for (const bool in_mask : {false, true}) {
        AttentionCase c{7, keys, 4, MaskKind::full};
        c.change = [&](AttentionInputs& in) { (in_mask ? in.mask.at(3, at) : in.q.at(3, at % 4)) = kNan; };
        c.expect = [](Reals& want, const AttentionInputs&) {
          for (int64_t i = 0; i < 4; i++) CHECK(std::isnan(want.at(3, i).value) && !std::isnan(want.at(4, i).value));
        };
        run_attention(table, c);
      }
    }
  }
}

// A score of +inf gives inf - inf = NaN, as softmax does; a NaN of v reaches its column of every row.
TEST(infinite_scores_and_nan_values) {
  for (const int64_t keys : kKeys) {
    for (const int64_t at : {int64_t{0}, keys / 2, keys - 1}) {
      AttentionCase c{7, keys, 5, MaskKind::full};
      c.change = [&](AttentionInputs& in) { in.mask.at(2, at) = INFINITY, in.v.at(at, 3) = kNan; };
      c.expect = [&](Reals& want, const AttentionInputs&) {
        for (int64_t r = 0; r < 7; r++) {
          for (int64_t i = 0; i < 5; i++) CHECK_EQ(std::isnan(want.at(r, i).value), r == 2 || i == 3);
        }
      };
      run_attention(table, c);
    }
  }
}

TEST(no_rows_and_no_keys) {
  run_attention(table, {0, 7, 4, MaskKind::none});
  run_attention(table, {0, 0, 4, MaskKind::none});
}

}  // namespace
