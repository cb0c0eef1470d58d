#include "ops/conv.h"

namespace sbk {

int64_t token_tile(const KernelTable& table, int64_t rows, int64_t threads, int64_t tasks_per_tile) {
  int64_t tiles = divide_up(rows, kTokenTile);
  if (tiles * tasks_per_tile % threads != 0)
    tiles = divide_up(round_up(tiles * tasks_per_tile, threads), tasks_per_tile);
  return std::max<int64_t>(round_up(divide_up(rows, tiles), table.tile_rows), table.tile_rows);
}

void conv_blocks(const KernelTable& table, const Conv& conv, int64_t first_block, int64_t last_block, const Operand& x,
                 int64_t rows, Activation activation, Input residual, Output y, int64_t first_group) {
  const PackedHeader& w = *conv.weight;
  const LowPrecision* low = low_precision(table, w);
  for (int64_t b = first_block; b < last_block; b++) {
    const int64_t column = b * w.block, group = column / w.group_columns() - first_group;
    const int64_t offset = column - first_block * w.block;
    (low ? low->conv
         : table.conv)({.x = x.data + group * x.group_units * x.unit_bytes,
                        .ldx = x.stride,
                        .panels = w.block_values(b),
                        .bias = conv.bias ? conv.bias + column : nullptr,
                        .residual = residual.data ? residual.data + offset : nullptr,
                        .ldr = residual.stride,
                        .y = y.data + offset,
                        .ldy = y.stride,
                        .rows = rows,
                        .k = w.k,
                        .n = w.block,
                        .activation = activation,
                        .x_quantization = x.quantization ? x.quantization + group * x.quantization_stride : nullptr});
  }
}

void layer_norm(const KernelTable& table, const Norm& norm, Input x, int64_t rows, int64_t n, Output y) {
  table.layer_norm({.x = x.data,
                    .ldx = x.stride,
                    .gamma = norm.gamma,
                    .beta = norm.beta,
                    .y = y.data,
                    .ldy = y.stride,
                    .rows = rows,
                    .n = n,
                    .eps = norm.eps});
}

void conv_layer_norm(const KernelTable& table, const Conv& conv, const Norm& norm, const Operand& x, Input residual,
                     int64_t rows, Output y) {
  conv_blocks(table, conv, 0, blocks(conv), x, rows, Activation::none, residual, y);
  layer_norm(table, norm, {y.data, y.stride}, rows, conv.out_channels(), y);
}

void shared_conv(const KernelTable& table, const Parallel& parallel, const Conv& conv, Input x, int64_t rows,
                 Activation activation, Input residual, Output y) {
  if (rows == 0) return;
  const int64_t n = blocks(conv);
  const int64_t tile = token_tile(table, rows, parallel.threads, n), tiles = divide_up(rows, tile);
  const Encoder encoder =
      Workspace::of<Scope::op>().cut([&](Pieces& pieces) { return Encoder(table, *conv.weight, rows, pieces); });
  if (encoder.kernels) {
    parallel_for(parallel, tiles, [&](int64_t t) { encoder.encode(x, t * tile, std::min((t + 1) * tile, rows)); });
  }
  const Operand operand = encoder.operand(x);
  // Block-major: neighbouring tasks, usually one thread's, share their weights.
  parallel_for(parallel, n * tiles, [&](int64_t task) {
    const int64_t b = task / tiles, row = task % tiles * tile, column = b * conv.weight->block;
    conv_blocks(table, conv, b, b + 1, operand.from(row), std::min(tile, rows - row), activation,
                {residual.data ? residual.row(row) + column : nullptr, residual.stride},
                {y.row(row) + column, y.stride});
  });
}

void shared_layer_norm(const KernelTable& table, const Parallel& parallel, const Norm& norm, Input x, int64_t rows,
                       int64_t n, Output y) {
  if (rows == 0) return;
  const int64_t tile = divide_up(rows, parallel.threads);
  parallel_for(parallel, divide_up(rows, tile), [&](int64_t t) {
    const int64_t row = t * tile;
    layer_norm(table, norm, {x.row(row), x.stride}, std::min(tile, rows - row), n, {y.row(row), y.stride});
  });
}

}  // namespace sbk
