// KernelTable::transpose: exact, and it writes each row of y up to whole vectors and no further.
#include <cmath>

#include "support/check.h"
#include "support/guarded.h"
#include "support/shapes.h"

namespace {

using namespace test;

TEST(remainders_and_strides) {
  const int64_t lanes = table.lanes;
  const std::vector<int64_t> around =
      sizes({0, 1, 2, 3, lanes - 1, lanes, lanes + 1, 2 * lanes - 1, 2 * lanes, 2 * lanes + 1, 65}, 0);
  for (const int64_t rows : around) {
    for (const int64_t cols : around) {
      for (const int64_t gap : {0, 1, 16}) {
        for (const Flush flush : kBothEnds) {
          const Context where(
              [&] { return text("rows=", rows, " cols=", cols, " gap=", gap, " flush=", static_cast<int>(flush)); });
          Random random(static_cast<uint64_t>(rows * 100 + cols));
          const int64_t padded = round_up(rows, lanes);
          Matrix x(rows, cols, cols + gap, flush), y(cols, rows, padded + gap, flush, padded);
          x.fill(random).freeze();
          table.transpose({x.data(), x.stride(), y.data(), y.stride(), rows, cols});
          bool equal = true, no_nan = true;
          for (int64_t c = 0; c < cols; c++) {
            for (int64_t r = 0; r < rows; r++) equal = equal && y.at(c, r) == x.at(r, c);
            for (int64_t r = rows; r < padded; r++) no_nan = no_nan && !std::isnan(y.at(c, r));
          }
          CHECK(equal);
          CHECK(no_nan);
          CHECK(y.gaps_untouched());
        }
      }
    }
  }
}

}  // namespace
