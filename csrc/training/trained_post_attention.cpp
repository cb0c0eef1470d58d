#include "training/trained_conv.h"

namespace sbk {
namespace {

// Rows of a task, which are also those of a partial sum of gamma's and beta's gradients: a number that depends on the
// rows alone, so that results do not depend on threads.
int64_t tile_of(int64_t rows) {
  constexpr int64_t kTasks = 16;     // where there are rows for them: work for as many threads
  constexpr int64_t kTileRows = 8;   // the tallest register tile
  constexpr int64_t kMostRows = 64;  // as in inference (kTokenTile)
  return std::clamp(round_up(divide_up(rows, kTasks), kTileRows), kTileRows, kMostRows);
}

// A packed conv, or the gradient of its input, over the rows of a tile.
struct TileConv {
  const KernelTable& table;
  const Conv& conv;
  Encoder encoder;

  TileConv(const KernelTable& t, const Conv& c, int64_t tile, Pieces& pieces)
      : table(t), conv(c), encoder(t, *c.weight, tile, pieces) {}

  Operand encode(Input x, int64_t rows) const {
    encoder.encode(x, 0, rows);
    return encoder.operand(x);
  }
  void run(Input x, int64_t rows, Input residual, Output y) const {
    conv_blocks(table, conv, 0, blocks(conv), encode(x, rows), rows, Activation::none, residual, y);
  }
};

// The three convs of a block, or the gradients of their inputs, packed in Scope::block.
struct PackedBlock {
  Conv post, up, down;

  PackedBlock(const KernelTable& table, const Parallel& parallel, Compute compute, const TrainedPostAttention& block,
              bool is_input_gradient) {
    const TrainedConv* convs[] = {&block.post, &block.intermediate, &block.output};
    Conv* packed[] = {&post, &up, &down};
    float* room[3];
    Workspace::of<Scope::block>().cut([&](Pieces& pieces) {
      for (int i = 0; i < 3; i++) {
        room[i] = pieces.take(weight_panels_size(table, compute, *convs[i], is_input_gradient));
      }
    });
    for (int i = 0; i < 3; i++) {
      *packed[i] = pack_weight(table, parallel, compute, *convs[i], is_input_gradient, room[i]);
    }
  }
};

// What a task has for the rows of its tile: the three convs, and one matrix, [tile][columns].
struct BlockTile {
  Output matrix;
  TileConv post, up, down;

  static BlockTile of(const KernelTable& table, const PackedBlock& packed, int64_t tile, int64_t columns) {
    return Workspace::of<Scope::task>().cut([&](Pieces& pieces) {
      return BlockTile{.matrix = {pieces.take(tile * columns), columns},
                       .post = TileConv(table, packed.post, tile, pieces),
                       .up = TileConv(table, packed.up, tile, pieces),
                       .down = TileConv(table, packed.down, tile, pieces)};
    });
  }
};

struct Tiles {
  int64_t rows, tile;

  int64_t count() const { return divide_up(rows, tile); }
  int64_t rows_of(int64_t task) const { return std::min(tile, rows - task * tile); }
};

Input in(Output m) { return {m.data, m.stride}; }
Input from(Input m, int64_t row) { return {m.data ? m.row(row) : nullptr, m.stride}; }
Output from(Output m, int64_t row) { return {m.data ? m.row(row) : nullptr, m.stride}; }

// y = dropout(x) + residual over the rows of a tile, `first` being its first; no data: no residual. y may be x.
void drop(const KernelTable& table, const Dropout& dropout, Input x, Input residual, int64_t first, int64_t rows,
          int64_t n, Output y) {
  if (dropout.threshold == 0 && !residual.data) {
    for (int64_t r = 0; r < rows; r++) std::copy(x.row(r), x.row(r) + n, y.row(r));
    return;
  }
  table.training.dropout({.x = x.data,
                          .ldx = x.stride,
                          .residual = residual.data,
                          .ldr = residual.stride,
                          .y = y.data,
                          .ldy = y.stride,
                          .rows = rows,
                          .n = n,
                          .first_row = first,
                          .dropout = dropout});
}

// y = activation(z), and unless grad has no data grad *= activation'(z).
void activate(const KernelTable& table, Activation activation, Input z, int64_t rows, int64_t n, Output grad,
              Output y) {
  table.training.activation_backward({.z = z.data,
                                      .ldz = z.stride,
                                      .grad = grad.data,
                                      .ldg = grad.stride,
                                      .y = y.data,
                                      .ldy = y.stride,
                                      .rows = rows,
                                      .n = n,
                                      .activation = activation});
}

// dx = the gradient of a LayerNorm's input over the rows of a tile, and its parts of those of gamma and beta.
void norm_backward(const KernelTable& table, const Norm& norm, Input x, Input grad, int64_t rows, int64_t n, Output dx,
                   float* partial) {
  std::fill(partial, partial + 2 * n, 0.0f);
  table.training.layer_norm_backward({.x = x.data,
                                      .ldx = x.stride,
                                      .gamma = norm.gamma,
                                      .grad = grad.data,
                                      .ldg = grad.stride,
                                      .dx = dx.data,
                                      .lddx = dx.stride,
                                      .dgamma = partial,
                                      .dbeta = partial + n,
                                      .rows = rows,
                                      .n = n,
                                      .eps = norm.eps});
}

void sum_partial(const float* partial, int64_t tiles, int64_t n, const NormGradients& out) {
  std::fill(out.gamma, out.gamma + n, 0.0f), std::fill(out.beta, out.beta + n, 0.0f);
  for (int64_t t = 0; t < tiles; t++, partial += 2 * n) {
    for (int64_t c = 0; c < n; c++) out.gamma[c] += partial[c], out.beta[c] += partial[n + c];
  }
}

}  // namespace

void post_attention_forward(const KernelTable& table, const Parallel& parallel, Compute compute,
                            const TrainedPostAttention& block, Input context, Input residual, int64_t rows,
                            const PostAttentionState& state, Output y) {
  if (rows == 0) return;
  compute = training_compute(table, compute);
  const int64_t n = block.post.n, wide = block.intermediate.n;
  const PackedBlock packed(table, parallel, compute, block, false);
  const bool drops_post = block.post_dropout.threshold != 0, drops_output = block.output_dropout.threshold != 0;

  const Tiles tiles{rows, tile_of(rows)};
  parallel_for(parallel, tiles.count(), [&](int64_t task) {
    const int64_t row = task * tiles.tile, count = tiles.rows_of(task);
    const BlockTile tile = BlockTile::of(table, packed, tiles.tile, wide);
    const Output hidden = tile.matrix;
    const Output post_sum{state.post_sum + row * n, n}, h{state.h + row * n, n}, z{state.z + row * wide, wide};
    const Output output_sum{state.output_sum + row * n, n};
    const Input none{nullptr, 0}, tile_residual = from(residual, row);

    // Without dropout the residual is added by the convolution.
    tile.post.run(from(context, row), count, drops_post ? none : tile_residual, post_sum);
    if (drops_post) drop(table, block.post_dropout, in(post_sum), tile_residual, row, count, n, post_sum);
    layer_norm(table, block.post_norm, in(post_sum), count, n, h);
    // Block by block, so that the activation finds in cache what was multiplied.
    const Operand operand = tile.up.encode(in(h), count);
    for (int64_t b = 0; b < blocks(packed.up); b++) {
      const int64_t column = b * packed.up.weight->block;
      const Output z_block{z.data + column, wide};
      conv_blocks(table, packed.up, b, b + 1, operand, count, Activation::none, none, z_block);
      activate(table, block.activation, in(z_block), count, packed.up.weight->block, {nullptr, 0},
               {hidden.data + column, wide});
    }
    tile.down.run(in(hidden), count, drops_output ? none : in(h), output_sum);
    if (drops_output) drop(table, block.output_dropout, in(output_sum), in(h), row, count, n, output_sum);
    layer_norm(table, block.output_norm, in(output_sum), count, n, from(y, row));
  });
}

void post_attention_backward(const KernelTable& table, const Parallel& parallel, Compute compute,
                             const TrainedPostAttention& block, Input context, int64_t rows,
                             const PostAttentionState& state, Input grad, const PostAttentionGradients& gradients) {
  const FloatEnvironment standard;  // for the sums of the tiles' sums
  compute = training_compute(table, compute);
  const int64_t n = block.post.n, wide = block.intermediate.n;
  const Tiles tiles{rows, tile_of(rows)};
  struct Scratch {
    Output post_grad, output_grad, dz, hidden;  // gradients of the results of the three convs; what the last one read
    float *post_partial, *output_partial;
  };
  const Scratch scratch = Workspace::of<Scope::layer>().cut([&](Pieces& pieces) {
    return Scratch{.post_grad = {pieces.take(rows * n), n},
                   .output_grad = {pieces.take(rows * n), n},
                   .dz = {pieces.take(rows * wide), wide},
                   .hidden = {pieces.take(rows * wide), wide},
                   .post_partial = pieces.take(2 * tiles.count() * n),
                   .output_partial = pieces.take(2 * tiles.count() * n)};
  });
  const Output post_grad = scratch.post_grad, output_grad = scratch.output_grad;
  const Output dz = scratch.dz, hidden = scratch.hidden;
  float *post_partial = scratch.post_partial, *output_partial = scratch.output_partial;
  const PackedBlock packed(table, parallel, compute, block, true);

  parallel_for(parallel, tiles.count(), [&](int64_t task) {
    const int64_t row = task * tiles.tile, count = tiles.rows_of(task);
    const BlockTile tile = BlockTile::of(table, packed, tiles.tile, n);
    const Output sum = tile.matrix;
    const Input none{nullptr, 0};
    const Output tile_output = from(output_grad, row), tile_post = from(post_grad, row);
    const Output tile_residual = from(gradients.residual, row);

    norm_backward(table, block.output_norm, {state.output_sum + row * n, n}, from(grad, row), count, n, sum,
                  output_partial + task * 2 * n);
    drop(table, block.output_dropout, in(sum), none, row, count, n, tile_output);
    const Operand operand = tile.down.encode(in(tile_output), count);
    for (int64_t b = 0; b < blocks(packed.down); b++) {
      const int64_t column = b * packed.down.weight->block;
      const Output dz_block{dz.row(row) + column, wide};
      conv_blocks(table, packed.down, b, b + 1, operand, count, Activation::none, none, dz_block);
      activate(table, block.activation, {state.z + row * wide + column, wide}, count, packed.down.weight->block,
               dz_block, {hidden.row(row) + column, wide});
    }
    // The gradient of h: what came by the residual, and through the hidden channels.
    tile.up.run(in(from(dz, row)), count, in(sum), sum);
    norm_backward(table, block.post_norm, {state.post_sum + row * n, n}, in(sum), count, n, tile_residual,
                  post_partial + task * 2 * n);
    drop(table, block.post_dropout, in(tile_residual), none, row, count, n, tile_post);
    if (gradients.context.data) tile.post.run(in(tile_post), count, none, from(gradients.context, row));
  });
  sum_partial(output_partial, tiles.count(), n, gradients.output_norm);
  sum_partial(post_partial, tiles.count(), n, gradients.post_norm);

  const auto weight_gradient = [&](const TrainedConv& conv, Output conv_grad, const ConvGradients& out, Input x) {
    const ConvBackward backward{conv, in(conv_grad), out};
    conv_backward(table, parallel, compute, &backward, 1, x, rows, {nullptr, 0});
  };
  weight_gradient(block.output, output_grad, gradients.output, in(hidden));
  weight_gradient(block.intermediate, dz, gradients.intermediate, {state.h, n});
  weight_gradient(block.post, post_grad, gradients.post, context);
}

}  // namespace sbk
