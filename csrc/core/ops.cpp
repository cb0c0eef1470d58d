#include "core/ops.h"

#include <algorithm>
#include <cmath>

#include "core/workspace.h"

namespace sbk {
namespace {

// Tokens per task: enough for the weights that a task reads from L2 or L3 to be used often, few enough for a task's
// activations to stay in L2.
constexpr int64_t kTokenTile = 64;

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

// Rows per task: at most kTokenTile, whole register tiles, and as many tasks as threads can share evenly.
int64_t token_tile(const KernelTable& table, int64_t rows, int64_t threads, int64_t tasks_per_tile = 1) {
  int64_t tiles = divide_up(rows, kTokenTile);
  if (tiles * tasks_per_tile % threads != 0) tiles = divide_up(round_up(tiles * tasks_per_tile, threads), tasks_per_tile);
  return std::max<int64_t>(round_up(divide_up(rows, tiles), table.tile_rows), table.tile_rows);
}

// Blocks [first_block, last_block) of a conv over `rows` rows; y starts at the first of these blocks' columns.
void conv_blocks(const KernelTable& table, const Conv& conv, int64_t first_block, int64_t last_block, Input x,
                 int64_t rows, Activation activation, Input residual, Output y) {
  const PackedHeader& w = *conv.weight;
  for (int64_t b = first_block; b < last_block; b++) {
    const int64_t column = b * w.block, group = column / w.group_columns();
    const int64_t offset = column - first_block * w.block;
    table.conv({.x = x.data + group * w.k,
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
                .activation = activation});
  }
}

int64_t blocks(const Conv& conv) { return conv.weight->n / conv.weight->block; }

void conv_layer_norm(const KernelTable& table, const Conv& conv, const Norm& norm, Input x, Input residual, int64_t rows,
                     Output y) {
  conv_blocks(table, conv, 0, blocks(conv), x, rows, Activation::none, residual, y);
  table.layer_norm({.x = y.data,
                    .ldx = y.stride,
                    .gamma = norm.gamma,
                    .beta = norm.beta,
                    .y = y.data,
                    .ldy = y.stride,
                    .rows = rows,
                    .n = conv.out_channels(),
                    .eps = norm.eps});
}

}  // namespace

void grouped_pointwise_conv(const KernelTable& table, const Parallel& parallel, const Conv& conv, Input x, int64_t rows,
                            Activation activation, Output y) {
  if (rows == 0) return;
  const int64_t n = blocks(conv);
  const int64_t tile = token_tile(table, rows, parallel.threads, n), tiles = divide_up(rows, tile);
  // Block-major: neighbouring tasks, usually one thread's, share their weights.
  parallel_for(parallel, n * tiles, [&](int64_t task) {
    const int64_t b = task / tiles, row = task % tiles * tile;
    conv_blocks(table, conv, b, b + 1, {x.row(row), x.stride}, std::min(tile, rows - row), activation, {nullptr, 0},
                {y.row(row) + b * conv.weight->block, y.stride});
  });
}

void grouped_pointwise_conv_layer_norm(const KernelTable& table, const Parallel& parallel, const Conv& conv,
                                       const Norm& norm, Input x, Input residual, int64_t rows, Output y) {
  if (rows == 0) return;
  const int64_t tile = token_tile(table, rows, parallel.threads);
  parallel_for(parallel, divide_up(rows, tile), [&](int64_t task) {
    const int64_t row = task * tile;
    conv_layer_norm(table, conv, norm, {x.row(row), x.stride}, {residual.row(row), residual.stride},
                    std::min(tile, rows - row), {y.row(row), y.stride});
  });
}

void attention_block(const KernelTable& table, const Parallel& parallel, const AttentionBlock& block, Input x,
                     int64_t batch, int64_t length, const AttentionMask& mask, Output context) {
  const int64_t heads = block.num_heads, d = block.query.out_channels() / heads;
  const int64_t ld = round_up(d, table.lanes);
  // A cache line more than needed: see score_stride in kernels/attention.h.
  const int64_t ldk = round_up(length, table.lanes) + 16;
  const int64_t scratch = table.attention_scratch(length, d);

  parallel_for(parallel, batch * heads, [&](int64_t task) {
    const int64_t b = task / heads, h = task % heads;
    Workspace& workspace = Workspace::local();
    // The last row of v is read up to whole vectors, which ld covers.
    workspace.reserve(2 * length * ld + d * ldk + scratch, 4);
    const Output qk{workspace.take(length * ld), ld}, v{workspace.take(length * ld), ld}, kt{workspace.take(d * ldk), ldk};

    const auto project = [&](const Conv& conv, Output y) {
      const int64_t per_head = d / conv.weight->block;
      conv_blocks(table, conv, h * per_head, (h + 1) * per_head, {x.row(b * length), x.stride}, length,
                  Activation::none, {nullptr, 0}, y);
    };
    project(block.key, qk);
    table.transpose({.x = qk.data, .ldx = ld, .y = kt.data, .ldy = ldk, .rows = length, .cols = d});
    project(block.value, v);
    project(block.query, qk);
    table.attention({.q = qk.data,
                     .ldq = ld,
                     .kt = kt.data,
                     .ldk = ldk,
                     .v = v.data,
                     .ldv = ld,
                     .mask = mask.data ? mask.data + b * mask.stride[0] + h * mask.stride[1] : nullptr,
                     .mask_row_stride = mask.stride[2],
                     .context = context.row(b * length) + h * d,
                     .ldc = context.stride,
                     .scratch = workspace.take(scratch),
                     .rows = length,
                     .keys = length,
                     .d = d,
                     .scale = 1.0f / std::sqrt(static_cast<float>(d))});
  });
}

void post_attention_block(const KernelTable& table, const Parallel& parallel, const PostAttentionBlock& block,
                          Input context, Input residual, int64_t rows, Output y) {
  if (rows == 0) return;
  const Conv &up = block.intermediate, &down = block.output;
  const int64_t channels = block.post.out_channels(), hidden_channels = up.out_channels();
  // Groups that line up are independent networks; otherwise the whole hidden layer exists before the output conv starts.
  const int64_t parts = up.weight->groups == down.weight->groups ? up.weight->groups : 1;
  const int64_t ldh = hidden_channels / parts, part_columns = channels / parts;
  const int64_t up_blocks = blocks(up) / parts, down_blocks = blocks(down) / parts;
  const int64_t tile = token_tile(table, rows, parallel.threads);

  parallel_for(parallel, divide_up(rows, tile), [&](int64_t task) {
    const int64_t row = task * tile, n = std::min(tile, rows - row);
    Workspace& workspace = Workspace::local();
    workspace.reserve(tile * (2 * channels + ldh), 3);
    const Output h{workspace.take(tile * channels), channels}, hidden{workspace.take(tile * ldh), ldh};
    const Output sum{workspace.take(tile * channels), channels};

    conv_layer_norm(table, block.post, block.post_norm, {context.row(row), context.stride},
                    {residual.row(row), residual.stride}, n, h);
    for (int64_t p = 0; p < parts; p++) {
      conv_blocks(table, up, p * up_blocks, (p + 1) * up_blocks, {h.data, h.stride}, n, block.activation, {nullptr, 0},
                  hidden);
      // conv_blocks adds the group's offset to its input; the part's hidden channels start at 0.
      const int64_t skip = parts > 1 ? p * down.weight->k : 0;
      conv_blocks(table, down, p * down_blocks, (p + 1) * down_blocks, {hidden.data - skip, hidden.stride}, n,
                  Activation::none, {h.data + p * part_columns, h.stride}, {sum.data + p * part_columns, sum.stride});
    }
    table.layer_norm({.x = sum.data,
                      .ldx = sum.stride,
                      .gamma = block.output_norm.gamma,
                      .beta = block.output_norm.beta,
                      .y = y.row(row),
                      .ldy = y.stride,
                      .rows = n,
                      .n = channels,
                      .eps = block.output_norm.eps});
  });
}

}  // namespace sbk
