// One call of KernelTable::attention in guarded buffers, compared with the oracle.
#pragma once
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "support/check.h"
#include "support/guarded.h"
#include "support/reference.h"
#include "support/shapes.h"

namespace test {

enum class MaskKind { none, shared, full };

// The buffers as the kernel sees them.
struct AttentionInputs {
  Matrix q, k, kt, v, mask;
};

struct AttentionCase {
  int64_t rows, keys, d;
  MaskKind mask = MaskKind::none;
  Flush flush = Flush::end;
  int64_t gap = 0;          // between rows of every matrix
  bool tight_keys = false;  // the last stride of kt is `keys`, so that what is read behind a row is the next row
  float spread = 1;         // q is in [-spread, spread)
  std::function<void(AttentionInputs&)> change = nullptr;                     // of the inputs before the call
  std::function<void(Reals& want, const AttentionInputs&)> expect = nullptr;  // of what the oracle says

  std::string describe() const {
    return text("rows=", rows, " keys=", keys, " d=", d, " mask=", static_cast<int>(mask), " gap=", gap,
                " tight_keys=", tight_keys, " flush=", static_cast<int>(flush));
  }
};

// Random with one key in five at -inf and one at the lowest float; key r % keys of row r always stays.
inline void fill_mask(Matrix& mask, Random& random) {
  mask.fill(random, 3);
  for (int64_t r = 0; r < mask.rows(); r++) {
    for (int64_t j = 0; j < mask.cols(); j++) {
      const int64_t kind = random.below(10);
      if (j == r % mask.cols() || kind > 3) continue;
      mask.at(r, j) = kind < 2 ? -INFINITY : std::numeric_limits<float>::lowest();
    }
  }
}

inline void run_attention(const sbk::KernelTable& table, const AttentionCase& c) {
  const Context where([&] { return c.describe(); });
  Random random(static_cast<uint64_t>(c.rows * 1000003 + c.keys * 1009 + c.d));
  const int64_t keys_padded = round_up(c.keys, table.lanes), d_padded = round_up(c.d, table.lanes);
  // As the contract says: kt and v may be read up to whole vectors; there are NaN behind keys and d, which reach
  // nothing.
  AttentionInputs in{Matrix(c.rows, c.d, c.d + c.gap, c.flush), Matrix(c.keys, c.d, c.d, c.flush),
                     Matrix(c.d, c.keys, c.tight_keys ? c.keys : keys_padded + c.gap, c.flush, keys_padded),
                     Matrix(c.keys, c.d, d_padded + c.gap, c.flush, d_padded),
                     Matrix(c.mask == MaskKind::shared ? 1 : c.rows, c.keys, c.keys + c.gap, c.flush)};
  in.q.fill(random, c.spread), in.k.fill(random, 2), in.v.fill(random);
  fill_mask(in.mask, random);
  if (c.change) c.change(in);
  for (int64_t j = 0; j < c.keys; j++) {
    for (int64_t i = 0; i < c.d; i++) in.kt.at(i, j) = in.k.at(j, i);
  }
  in.q.freeze(), in.kt.freeze(), in.v.freeze(), in.mask.freeze();

  Matrix context(c.rows, c.d, c.d + 2 * c.gap, c.flush);
  Buffer scratch(table.attention_scratch(c.keys, c.d), c.flush, 64);
  const float scale = 0.37f;
  const bool masked = c.mask != MaskKind::none;
  table.attention({.q = in.q.data(),
                   .ldq = in.q.stride(),
                   .kt = in.kt.data(),
                   .ldk = in.kt.stride(),
                   .v = in.v.data(),
                   .ldv = in.v.stride(),
                   .mask = masked ? in.mask.data() : nullptr,
                   .mask_row_stride = c.mask == MaskKind::full ? in.mask.stride() : 0,
                   .context = context.data(),
                   .ldc = context.stride(),
                   .scratch = scratch.data(),
                   .rows = c.rows,
                   .keys = c.keys,
                   .d = c.d,
                   .scale = scale});

  Reals want = attention(Reals(in.q), Reals(in.k), Reals(in.v), scale, [&](int64_t r, int64_t j) -> double {
    return masked ? in.mask.at(c.mask == MaskKind::full ? r : 0, j) : 0.0;
  });
  if (c.expect) c.expect(want, in);
  check_close(context, want);
  // Its alignment may leave room beside the scratch, where no guard page would notice.
  CHECK(scratch.untouched_but([](int64_t) { return true; }));
}

}  // namespace test
