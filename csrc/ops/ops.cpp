#include "ops/ops.h"

#include <algorithm>
#include <cmath>

#include "ops/conv.h"
#include "runtime/workspace.h"

namespace sbk {
namespace {

// Tokens per thread up to which threads share weights instead of tokens: fewer rows than this are multiplied faster
// than weights come from memory.
constexpr int64_t kFewTokens = 16;

// post_attention_block for few tokens: threads share the weights, not the tokens, so that every weight is read from
// memory by one thread, and is multiplied with many rows once it is there.
void post_attention_by_columns(const KernelTable& table, const Parallel& parallel, const PostAttentionBlock& block,
                               Input context, Input residual, int64_t rows, Output y) {
  const int64_t channels = block.post.out_channels(), hidden_channels = block.intermediate.out_channels();
  Workspace& workspace = Workspace::of<Scope::block>();
  workspace.reserve(rows * (2 * channels + hidden_channels), 3);
  const Output h{workspace.take(rows * channels), channels}, sum{workspace.take(rows * channels), channels};
  const Output hidden{workspace.take(rows * hidden_channels), hidden_channels};
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
    Workspace& workspace = Workspace::of<Scope::task>();
    workspace.reserve(encoded_size(*conv.weight, n) + quantization_size(*conv.weight, n), 2);
    const Encoder encoder(table, *conv.weight, n, workspace);
    const Input tile_x{x.row(row), x.stride};
    encoder.encode(tile_x, 0, n);
    conv_layer_norm(table, conv, norm, encoder.operand(tile_x), {residual.row(row), residual.stride}, n,
                    {y.row(row), y.stride});
  });
}

void attention_block(const KernelTable& table, const Parallel& parallel, const AttentionBlock& block, Input x,
                     const Sequences& sequences, const AttentionMask& mask, Output context) {
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
  Workspace& shared = Workspace::of<Scope::op>();
  int64_t floats = 0;
  for (int i = 0; i < 3; i++) {
    if (shared_with[i] == i)
      floats += encoded_size(*convs[i]->weight, rows) + quantization_size(*convs[i]->weight, rows);
  }
  shared.reserve(floats, 6);
  Operand operands[3];
  for (int i = 0; i < 3; i++) {
    if (shared_with[i] != i) {
      operands[i] = operands[shared_with[i]];
      continue;
    }
    const Encoder encoder(table, *convs[i]->weight, rows, shared);
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
    // A cache line more than needed: see score_stride in kernels/attention.h.
    const int64_t ldk = round_up(length, layout.lanes) + 16;
    const int64_t scratch = table.attention_scratch(length, d);
    const int64_t q_size = low ? floats_of(length * d_units, layout.unit_bytes) : 0;
    const int64_t v_size = low ? floats_of(divide_up(length, layout.per) * ld, layout.unit_bytes) : 0;
    const int64_t kt_size = floats_of(d_units * ldk, layout.unit_bytes);
    Workspace& workspace = Workspace::of<Scope::task>();
    // The last row of v is read up to whole vectors, which ld covers.
    workspace.reserve(2 * length * ld + q_size + v_size + kt_size + (is_narrow ? d * ldk : 0) + scratch, 7);
    const Output qk{workspace.take(length * ld), ld}, v{workspace.take(length * ld), ld};
    float* kt = workspace.take(kt_size);

    const auto project = [&](int i, Output y) {
      const Conv& conv = *convs[i];
      const int64_t per_head = d / conv.weight->block;
      conv_blocks(table, conv, h * per_head, (h + 1) * per_head, operands[i].from(first), length, Activation::none,
                  {nullptr, 0}, y);
    };
    // Rows of d floats as rows of units, in place of nothing where products are fp32.
    const Output units{low ? workspace.take(q_size) : qk.data, low ? d_units : ld};
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
      float* wide = workspace.take(d * ldk);
      table.transpose({.x = qk.data, .ldx = ld, .y = wide, .ldy = ldk, .rows = length, .cols = d});
      low->stack_rows({.x = wide, .ldx = ldk, .y = kt, .ldy = ldk, .rows = d, .cols = length});
    } else {
      to_units(1.0f);
      table.transpose({.x = units.data, .ldx = units.stride, .y = kt, .ldy = ldk, .rows = length, .cols = d_units});
    }
    project(2, v);
    float* values = v.data;
    if (low) {
      values = workspace.take(v_size);
      low->stack_rows({.x = v.data, .ldx = ld, .y = values, .ldy = ld, .rows = length, .cols = d});
    }
    project(0, qk);
    to_units(early_scale);
    (low ? low->attention
         : table.attention)({.q = units.data,
                             .ldq = units.stride,
                             .kt = kt,
                             .ldk = ldk,
                             .v = values,
                             .ldv = ld,
                             .mask = mask.data ? mask.data + b * mask.stride[0] + h * mask.stride[1] : nullptr,
                             .mask_row_stride = mask.stride[2],
                             .context = context.row(first) + h * d,
                             .ldc = context.stride,
                             .scratch = workspace.take(scratch),
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
  const auto size = [&](const PackedHeader& w) { return encoded_size(w, tile) + quantization_size(w, tile); };

  parallel_for(parallel, divide_up(rows, tile), [&](int64_t task) {
    const int64_t row = task * tile, n = std::min(tile, rows - row);
    Workspace& workspace = Workspace::of<Scope::task>();
    workspace.reserve(tile * (2 * channels + ldh) + size(*post.weight) + size(*up.weight) + size(part), 9);
    const Output h{workspace.take(tile * channels), channels}, hidden{workspace.take(tile * ldh), ldh};
    const Output sum{workspace.take(tile * channels), channels};
    const Encoder post_encoder(table, *post.weight, tile, workspace), up_encoder(table, *up.weight, tile, workspace),
        down_encoder(table, part, tile, workspace);

    const Input tile_context{context.row(row), context.stride}, tile_h{h.data, h.stride};
    const Input tile_hidden{hidden.data, hidden.stride};
    post_encoder.encode(tile_context, 0, n);
    conv_layer_norm(table, post, block.post_norm, post_encoder.operand(tile_context),
                    {residual.row(row), residual.stride}, n, h);
    up_encoder.encode(tile_h, 0, n);
    for (int64_t p = 0; p < parts; p++) {
      conv_blocks(table, up, p * up_blocks, (p + 1) * up_blocks, up_encoder.operand(tile_h), n, block.activation,
                  {nullptr, 0}, hidden);
      down_encoder.encode(tile_hidden, 0, n);
      conv_blocks(table, down, p * down_blocks, (p + 1) * down_blocks, down_encoder.operand(tile_hidden), n,
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
  Workspace& workspace = Workspace::of<Scope::layer>();
  workspace.reserve(rows * channels, 1);
  const Output context{workspace.take(rows * channels), channels};
  attention_block(table, parallel, attention, x, sequences, mask, context);
  post_attention_block(table, parallel, post_attention, {context.data, channels}, x, rows, y);
}

}  // namespace sbk
