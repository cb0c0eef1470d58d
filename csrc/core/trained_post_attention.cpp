#include "core/trained_conv.h"

namespace sbk {
namespace {

// Rows whose sums of gamma's and beta's gradients are one partial sum: a number that does not depend on threads.
constexpr int64_t kNormTile = 64;

// dx = the gradient of layer_norm's input, `x`; dx may be grad.
void norm_backward(const KernelTable& table, const Parallel& parallel, const Norm& norm, Input x, Input grad,
                   int64_t rows, int64_t n, Output dx, const NormGradients& out) {
  const int64_t tiles = divide_up(rows, kNormTile);
  Workspace& workspace = Workspace::of<Scope::block>();
  workspace.reserve(tiles * 2 * n, 1);
  float* partial = workspace.take(tiles * 2 * n);
  std::fill(partial, partial + tiles * 2 * n, 0.0f);
  parallel_for(parallel, tiles, [&](int64_t tile) {
    const int64_t row = tile * kNormTile;
    table.training.layer_norm_backward({.x = x.row(row),
                                        .ldx = x.stride,
                                        .gamma = norm.gamma,
                                        .grad = grad.row(row),
                                        .ldg = grad.stride,
                                        .dx = dx.row(row),
                                        .lddx = dx.stride,
                                        .dgamma = partial + tile * 2 * n,
                                        .dbeta = partial + (tile * 2 + 1) * n,
                                        .rows = std::min(kNormTile, rows - row),
                                        .n = n,
                                        .eps = norm.eps});
  });
  std::fill(out.gamma, out.gamma + n, 0.0f), std::fill(out.beta, out.beta + n, 0.0f);
  for (int64_t tile = 0; tile < tiles; tile++) {
    for (int64_t c = 0; c < n; c++) out.gamma[c] += partial[tile * 2 * n + c];
    for (int64_t c = 0; c < n; c++) out.beta[c] += partial[(tile * 2 + 1) * n + c];
  }
}

// hidden = activation(z), and unless grad has no data grad *= activation'(z).
void activation(const KernelTable& table, const Parallel& parallel, Activation kind, Input z, int64_t rows, int64_t n,
                Output grad, Output hidden) {
  constexpr int64_t tile = 16;
  parallel_for(parallel, divide_up(rows, tile), [&](int64_t task) {
    const int64_t row = task * tile;
    table.training.activation_backward({.z = z.row(row),
                                        .ldz = z.stride,
                                        .grad = grad.data ? grad.row(row) : nullptr,
                                        .ldg = grad.stride,
                                        .y = hidden.row(row),
                                        .ldy = hidden.stride,
                                        .rows = std::min(tile, rows - row),
                                        .n = n,
                                        .activation = kind});
  });
}

// y = dropout(y) + residual.
void add_dropped(const KernelTable& table, const Parallel& parallel, const Dropout& dropout, Input residual,
                 int64_t rows, int64_t n, Output y) {
  if (dropout.threshold != 0) shared_dropout(table, parallel, dropout, {y.data, y.stride}, residual, rows, n, y);
}

}  // namespace

void post_attention_forward(const KernelTable& table, const Parallel& parallel, Compute compute,
                            const TrainedPostAttention& block, Input context, Input residual, int64_t rows,
                            const PostAttentionState& state, Output y) {
  if (rows == 0) return;
  compute = training_compute(table, compute);
  const int64_t n = block.post.n, wide = block.intermediate.n;
  const Output post_sum{state.post_sum, n}, h{state.h, n}, z{state.z, wide}, output_sum{state.output_sum, n};
  const Input none{nullptr, 0}, h_in{state.h, n};
  Workspace& workspace = Workspace::of<Scope::layer>();
  workspace.reserve(rows * wide, 1);
  const Output hidden{workspace.take(rows * wide), wide};

  // Without dropout the residual is added by the convolution.
  const bool drops_post = block.post_dropout.threshold != 0, drops_output = block.output_dropout.threshold != 0;
  trained_conv(table, parallel, compute, block.post, context, rows, drops_post ? none : residual, post_sum);
  add_dropped(table, parallel, block.post_dropout, residual, rows, n, post_sum);
  shared_layer_norm(table, parallel, block.post_norm, {state.post_sum, n}, rows, n, h);
  trained_conv(table, parallel, compute, block.intermediate, h_in, rows, none, z);
  activation(table, parallel, block.activation, {state.z, wide}, rows, wide, {nullptr, 0}, hidden);
  trained_conv(table, parallel, compute, block.output, {hidden.data, wide}, rows, drops_output ? none : h_in,
               output_sum);
  add_dropped(table, parallel, block.output_dropout, h_in, rows, n, output_sum);
  shared_layer_norm(table, parallel, block.output_norm, {state.output_sum, n}, rows, n, y);
}

void post_attention_backward(const KernelTable& table, const Parallel& parallel, Compute compute,
                             const TrainedPostAttention& block, Input context, int64_t rows,
                             const PostAttentionState& state, Input grad, const PostAttentionGradients& gradients) {
  compute = training_compute(table, compute);
  const int64_t n = block.post.n, wide = block.intermediate.n;
  Workspace& workspace = Workspace::of<Scope::layer>();
  workspace.reserve(2 * rows * (n + wide), 4);
  const Output sum{workspace.take(rows * n), n}, dropped{workspace.take(rows * n), n};
  const Output dz{workspace.take(rows * wide), wide}, hidden{workspace.take(rows * wide), wide};
  const Input none{nullptr, 0}, sum_in{sum.data, n}, dz_in{dz.data, wide};
  const auto behind_dropout = [&](const Dropout& dropout, Input x) {
    if (dropout.threshold == 0) return x;
    shared_dropout(table, parallel, dropout, x, none, rows, n, dropped);
    return Input{dropped.data, n};
  };

  norm_backward(table, parallel, block.output_norm, {state.output_sum, n}, grad, rows, n, sum, gradients.output_norm);
  const Input output_grad = behind_dropout(block.output_dropout, sum_in);
  conv_input_gradient(table, parallel, compute, block.output, output_grad, rows, none, dz);
  activation(table, parallel, block.activation, {state.z, wide}, rows, wide, dz, hidden);
  const ConvBackward output{block.output, output_grad, gradients.output};
  conv_backward(table, parallel, compute, &output, 1, {hidden.data, wide}, rows, {nullptr, 0});
  // The gradient of h: what came by the residual, and through the hidden channels.
  conv_input_gradient(table, parallel, compute, block.intermediate, dz_in, rows, sum_in, sum);
  const ConvBackward intermediate{block.intermediate, dz_in, gradients.intermediate};
  conv_backward(table, parallel, compute, &intermediate, 1, {state.h, n}, rows, {nullptr, 0});

  const Output residual = gradients.residual;
  norm_backward(table, parallel, block.post_norm, {state.post_sum, n}, sum_in, rows, n, residual, gradients.post_norm);
  const ConvBackward post{block.post, behind_dropout(block.post_dropout, {residual.data, residual.stride}),
                          gradients.post};
  conv_backward(table, parallel, compute, &post, 1, context, rows, gradients.context);
}

}  // namespace sbk
