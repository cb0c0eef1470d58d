#include "ops/ops.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "ops/conv.h"
#include "runtime/workspace.h"

namespace sbk {
namespace {

// post_attention_block for few tokens: threads share the weights, not the tokens, so that every weight is read from
// memory by one thread, and is multiplied with many rows once it is there.
void post_attention_by_columns(const KernelTable& table, const Parallel& parallel, const PostAttentionBlock& block,
                               Input context, Input residual, int64_t rows, Output y) {
  const int64_t channels = block.post.out_channels(), hidden_channels = block.intermediate.out_channels();
  struct Scratch {
    Output h, sum, hidden;
  };
  const auto [h, sum, hidden] = Workspace::of<Scope::block>().cut([&](Pieces& pieces) {
    return Scratch{.h = {pieces.take(rows * channels), channels},
                   .sum = {pieces.take(rows * channels), channels},
                   .hidden = {pieces.take(rows * hidden_channels), hidden_channels}};
  });
  const Input h_in{h.data, channels}, sum_in{sum.data, channels}, hidden_in{hidden.data, hidden_channels};
  shared_conv(table, parallel, block.post, context, rows, Activation::none, residual, sum);
  shared_layer_norm(table, parallel, block.post_norm, sum_in, rows, channels, h);
  shared_conv(table, parallel, block.intermediate, h_in, rows, block.activation, {nullptr, 0}, hidden);
  shared_conv(table, parallel, block.output, hidden_in, rows, Activation::none, h_in, sum);
  shared_layer_norm(table, parallel, block.output_norm, sum_in, rows, channels, y);
}

}  // namespace

void grouped_pointwise_conv(const KernelTable& table, const Parallel& parallel, const Conv& conv, Input x, int64_t rows,
                            Activation activation, Output y) {
  shared_conv(table, parallel, conv, x, rows, activation, {nullptr, 0}, y);
}

void grouped_pointwise_conv_layer_norm(const KernelTable& table, const Parallel& parallel, const Conv& conv,
                                       const Norm& norm, Input x, Input residual, int64_t rows, Output y) {
  if (rows == 0) return;
  const int64_t tile = token_tile(table, rows, parallel.threads);
  parallel_for(parallel, divide_up(rows, tile), [&](int64_t task) {
    const int64_t row = task * tile, n = std::min(tile, rows - row);
    const Encoder encoder =
        Workspace::of<Scope::task>().cut([&](Pieces& pieces) { return Encoder(table, *conv.weight, n, pieces); });
    const Input tile_x{x.row(row), x.stride};
    encoder.encode(tile_x, 0, n);
    conv_layer_norm(table, conv, norm, encoder.operand(tile_x), {residual.row(row), residual.stride}, n,
                    {y.row(row), y.stride});
  });
}

void attention_block(const KernelTable& table, const Parallel& parallel, const AttentionBlock& block, Input x,
                     const Sequences& sequences, const AttentionMask& mask, Output context) {
  const FloatEnvironment standard;
  const int64_t heads = block.num_heads, d = block.query.out_channels() / heads, rows = sequences.rows();
  if (rows == 0) return;
  // The products of attention itself are less than fp32 where the projections are and the tier can multiply it.
  const LowAttention* low = block.query.weight->is(Compute::float32) || table.low_attention.attention == nullptr
                                ? nullptr
                                : &table.low_attention;
  const Compute compute = low ? low->compute : Compute::float32;
  const PackLayout& layout = layout_of(table.layout, compute);
  const int64_t d_units = divide_up(d, layout.per), ld = round_up(d, layout.lanes);
  // q . k of fp16 would leave its range early: there q is scaled before it is rounded.
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  const float early_scale = compute == Compute::float16 ? scale : 1.0f;
  // Units of 32 bits are transposed as floats are; narrower ones are floats until they have been.
  const bool is_narrow = layout.unit_bytes < 4;

  // x is encoded once for all heads, and once for all of q, k and v where their groups are the same.
  const Conv* convs[3] = {&block.query, &block.key, &block.value};
  int shared_with[3] = {0, 1, 2};
  for (int i = 1; i < 3; i++) {
    for (int j = 0; j < i; j++) {
      if (convs[j]->weight->groups == convs[i]->weight->groups) shared_with[i] = std::min(shared_with[i], j);
    }
  }
  const std::array<Encoder, 3> encoders = Workspace::of<Scope::op>().cut([&](Pieces& pieces) {
    const auto encoder = [&](int i) {
      return Encoder(table, *convs[i]->weight, shared_with[i] == i ? rows : 0, pieces);
    };
    return std::array<Encoder, 3>{encoder(0), encoder(1), encoder(2)};
  });
  Operand operands[3];
  for (int i = 0; i < 3; i++) {
    if (shared_with[i] != i) {
      operands[i] = operands[shared_with[i]];
      continue;
    }
    const Encoder& encoder = encoders[i];
    const int64_t tile = token_tile(table, rows, parallel.threads);
    if (encoder.kernels) {
      parallel_for(parallel, divide_up(rows, tile),
                   [&](int64_t t) { encoder.encode(x, t * tile, std::min((t + 1) * tile, rows)); });
    }
    operands[i] = encoder.operand(x);
  }

  // Head-major: a thread's neighbouring tasks share a head's weights, and threads share sequences of any lengths
  // evenly.
  parallel_for(parallel, heads * sequences.batch, [&](int64_t task) {
    const int64_t h = task / sequences.batch, b = task % sequences.batch;
    const int64_t first = sequences.offsets[b], length = sequences.length(b);
    if (length == 0) return;
    const int64_t ldk = padded_stride(length, layout.lanes);
    struct Scratch {
      Output qk, v;  // the last row of v is read up to whole vectors, which ld covers
      float *kt, *q_units, *wide, *v_units, *of_attention;
    };
    const auto scratch = Workspace::of<Scope::task>().cut([&](Pieces& pieces) {
      const auto units = [&](int64_t n) { return floats_of(n, layout.unit_bytes); };
      return Scratch{.qk = {pieces.take(length * ld), ld},
                     .v = {pieces.take(length * ld), ld},
                     .kt = pieces.take(units(d_units * ldk)),
                     .q_units = pieces.take(low ? units(length * d_units) : 0),
                     .wide = pieces.take(is_narrow ? d * ldk : 0),
                     .v_units = pieces.take(low ? units(divide_up(length, layout.per) * ld) : 0),
                     .of_attention = pieces.take(table.attention_scratch(length, d))};
    });
    const Output qk = scratch.qk, v = scratch.v;

    const auto project = [&](int i, Output y) {
      const Conv& conv = *convs[i];
      const int64_t per_head = d / conv.weight->block;
      conv_blocks(table, conv, h * per_head, (h + 1) * per_head, operands[i].from(first), length, Activation::none,
                  {nullptr, 0}, y);
    };
    // Rows of d floats as rows of units, in place of nothing where products are fp32.
    const Output units{low ? scratch.q_units : qk.data, low ? d_units : ld};
    const auto to_units = [&](float factor) {
      if (low == nullptr) return;
      low_precision(table, compute)
          ->encode({.x = qk.data,
                    .ldx = ld,
                    .y = units.data,
                    .ldy = d_units,
                    .quantization = nullptr,
                    .rows = length,
                    .k = d,
                    .factor = factor});
    };
    project(1, qk);
    if (is_narrow) {
      table.transpose({.x = qk.data, .ldx = ld, .y = scratch.wide, .ldy = ldk, .rows = length, .cols = d});
      low->stack_rows({.x = scratch.wide, .ldx = ldk, .y = scratch.kt, .ldy = ldk, .rows = d, .cols = length});
    } else {
      to_units(1.0f);
      table.transpose(
          {.x = units.data, .ldx = units.stride, .y = scratch.kt, .ldy = ldk, .rows = length, .cols = d_units});
    }
    project(2, v);
    float* values = v.data;
    if (low) {
      values = scratch.v_units;
      low->stack_rows({.x = v.data, .ldx = ld, .y = values, .ldy = ld, .rows = length, .cols = d});
    }
    project(0, qk);
    to_units(early_scale);
    (low ? low->attention
         : table.attention)({.q = units.data,
                             .ldq = units.stride,
                             .kt = scratch.kt,
                             .ldk = ldk,
                             .v = values,
                             .ldv = ld,
                             .mask = mask.data ? mask.data + b * mask.stride[0] + h * mask.stride[1] : nullptr,
                             .mask_row_stride = mask.stride[2],
                             .context = context.row(first) + h * d,
                             .ldc = context.stride,
                             .scratch = scratch.of_attention,
                             .rows = length,
                             .keys = length,
                             .d = d,
                             .scale = compute == Compute::float16 ? 1.0f : scale});
  });
}

void post_attention_block(const KernelTable& table, const Parallel& parallel, const PostAttentionBlock& block,
                          Input context, Input residual, int64_t rows, Output y) {
  if (rows == 0) return;
  if (parallel.threads > 1 && rows <= parallel.threads * kFewTokens) {
    post_attention_by_columns(table, parallel, block, context, residual, rows, y);
    return;
  }
  const Conv &post = block.post, &up = block.intermediate, &down = block.output;
  const int64_t channels = post.out_channels(), hidden_channels = up.out_channels();
  // Groups that line up are independent networks; otherwise the whole hidden layer exists before the output conv
  // starts.
  const int64_t parts = up.weight->groups == down.weight->groups ? up.weight->groups : 1;
  const int64_t ldh = hidden_channels / parts, part_columns = channels / parts;
  const int64_t up_blocks = blocks(up) / parts, down_blocks = blocks(down) / parts;
  const int64_t tile = token_tile(table, rows, parallel.threads);
  // One part of the output conv, as a conv with the groups of that part only.
  PackedHeader part = *down.weight;
  part.groups = down.weight->groups / parts;
  struct Scratch {
    Output h, hidden, sum;
    Encoder post, up, down;
  };

  parallel_for(parallel, divide_up(rows, tile), [&](int64_t task) {
    const int64_t row = task * tile, n = std::min(tile, rows - row);
    const Scratch scratch = Workspace::of<Scope::task>().cut([&](Pieces& pieces) {
      return Scratch{.h = {pieces.take(tile * channels), channels},
                     .hidden = {pieces.take(tile * ldh), ldh},
                     .sum = {pieces.take(tile * channels), channels},
                     .post = Encoder(table, *post.weight, tile, pieces),
                     .up = Encoder(table, *up.weight, tile, pieces),
                     .down = Encoder(table, part, tile, pieces)};
    });
    const Output h = scratch.h, hidden = scratch.hidden, sum = scratch.sum;

    const Input tile_context{context.row(row), context.stride}, tile_h{h.data, h.stride};
    const Input tile_hidden{hidden.data, hidden.stride};
    scratch.post.encode(tile_context, 0, n);
    conv_layer_norm(table, post, block.post_norm, scratch.post.operand(tile_context),
                    {residual.row(row), residual.stride}, n, h);
    scratch.up.encode(tile_h, 0, n);
    for (int64_t p = 0; p < parts; p++) {
      conv_blocks(table, up, p * up_blocks, (p + 1) * up_blocks, scratch.up.operand(tile_h), n, block.activation,
                  {nullptr, 0}, hidden);
      scratch.down.encode(tile_hidden, 0, n);
      conv_blocks(table, down, p * down_blocks, (p + 1) * down_blocks, scratch.down.operand(tile_hidden), n,
                  Activation::none, {h.data + p * part_columns, h.stride}, {sum.data + p * part_columns, sum.stride},
                  p * part.groups);
    }
    layer_norm(table, block.output_norm, {sum.data, sum.stride}, n, channels, {y.row(row), y.stride});
  });
}

void encoder_layer(const KernelTable& table, const Parallel& parallel, const AttentionBlock& attention,
                   const PostAttentionBlock& post_attention, Input x, const Sequences& sequences,
                   const AttentionMask& mask, Output y) {
  const int64_t rows = sequences.rows(), channels = attention.query.out_channels();
  const Output context{Workspace::of<Scope::layer>().cut_one(rows * channels), channels};
  attention_block(table, parallel, attention, x, sequences, mask, context);
  post_attention_block(table, parallel, post_attention, {context.data, channels}, x, rows, y);
}

}  // namespace sbk
