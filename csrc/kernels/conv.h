// Grouped pointwise convolution of one block of columns: ConvArgs in table.h.
#pragma once
#include "kernels/math.h"
#include "kernels/table.h"
#include "kernels/tile.h"

namespace sbk {
namespace {

// One tile of the output: rows [row, row + MR), columns [column, column + NV vectors), the last vector maybe partial.
struct ConvTileArgs {
  const ConvArgs& conv;
  const float* panel;
  int64_t row, column;
};

template <class V>
struct ConvTile {
  template <int MR, int NV>
  static void run(const ConvTileArgs& t) {
    using f32 = typename V::f32;
    const ConvArgs& p = t.conv;
    const int64_t columns = p.n - t.column < NV * V::lanes ? p.n - t.column : NV * V::lanes;
    const int64_t tail = columns - (NV - 1) * V::lanes;  // columns in the last vector
    const auto is_partial = [&](int j) SBK_INLINE_LAMBDA { return j == NV - 1 && tail < V::lanes; };

    Tile<V, MR, NV> acc;
    unroll<NV>([&](auto j) SBK_INLINE_LAMBDA {
      f32 b = V::zero();
      if (p.bias) {
        const float* bias = p.bias + t.column + j * V::lanes;
        b = is_partial(j) ? V::load_partial(bias, tail) : V::load(bias);
      }
      unroll<MR>([&](auto i) SBK_INLINE_LAMBDA { acc[i][j] = b; });
    });
    tile_mac<V, MR, NV>(acc, p.x + t.row * p.ldx, p.ldx, t.panel, NV * V::lanes, p.k);

    if (p.residual) {
      const float* r = p.residual + t.row * p.ldr + t.column;
      unroll<MR>([&](auto i) SBK_INLINE_LAMBDA {
        unroll<NV>([&](auto j) SBK_INLINE_LAMBDA {
          const float* at = r + i * p.ldr + j * V::lanes;
          acc[i][j] = V::add(acc[i][j], is_partial(j) ? V::load_partial(at, tail) : V::load(at));
        });
      });
    }
    float* y = p.y + t.row * p.ldy + t.column;
    unroll<MR>([&](auto i) SBK_INLINE_LAMBDA {
      unroll<NV>([&](auto j) SBK_INLINE_LAMBDA {
        float* at = y + i * p.ldy + j * V::lanes;
        if (is_partial(j)) {
          V::store_partial(at, acc[i][j], tail);
        } else {
          V::store(at, acc[i][j]);
        }
      });
    });
    // From L1, where the tile still is: in registers the accumulators would leave no room for the constants.
    activate<V>(y, p.ldy, MR, columns, p.activation);
  }
};

// A panel of B is read by every tile of rows in turn and stays in L1 or L2; A streams.
template <class V>
void conv(const ConvArgs& p) {
  const int64_t vectors = (p.n + V::lanes - 1) / V::lanes;
  for_each_panel<V>(vectors, [&](Panel panel) SBK_INLINE_LAMBDA {
    const int64_t column = panel.first * V::lanes;
    const float* b = p.panels + column * p.k;
    for (int64_t row = 0; row < p.rows; row += V::tile_rows) {
      const int64_t left = p.rows - row;
      const int rows = static_cast<int>(left < V::tile_rows ? left : V::tile_rows);
      dispatch_tile<V, ConvTile<V>>(rows, panel.width, ConvTileArgs{p, b, row, column});
    }
  });
}

}  // namespace
}  // namespace sbk
