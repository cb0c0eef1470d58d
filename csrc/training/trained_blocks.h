// training/ is the room of what is computed in training: forward passes that keep what gradients need, and the
// gradients, over whole tensors. This file has all that frontends call.
//
// All tensors are fp32, token-major and contiguous. `compute` is what convolutions multiply in, fp32 or bf16 (fp32
// where the tier has no instruction for it); sums and everything else are fp32. Results depend neither on the number
// of threads nor on how work is shared. Thread-safe; scratch memory is the calling threads'; std::bad_alloc is the only
// exception.
#pragma once
#include <cstdint>

#include "ops/ops.h"

namespace sbk {

// A grouped pointwise convolution as the optimizer has it.
struct TrainedConv {
  const float* weight;  // [n][k], k = input channels per group
  const float* bias;    // [n] or null
  int64_t n, k, groups;

  int64_t in_channels() const { return k * groups; }
};

// Where the gradients of a convolution go; null: not wanted.
struct ConvGradients {
  float* weight;  // [n][k]
  float* bias;    // [n]
};

struct NormGradients {
  float* gamma;  // [channels], never null
  float* beta;
};

// A convolution and the gradient of its output, [rows][n].
struct ConvBackward {
  TrainedConv conv;
  Input grad;
  ConvGradients gradients;
};

// Scratch: all of Scope::block, op and task, whose contents are lost.
//
// Gradients of `count` convolutions that read the same x, [rows][in_channels]: of their weights and biases, and of x.
// The gradient of x, the sum over the convolutions, goes to dx unless its data is null.
void conv_backward(const KernelTable& table, const Parallel& parallel, Compute compute, const ConvBackward* convs,
                   int64_t count, Input x, int64_t rows, Output dx);

// The places in a layer where values are dropped. The numbers are part of the generator's counter (kernels/table.h,
// Dropout), of ops.dropout_factors, and of the Triton kernels: DropoutSite of squeezebert_kernels/_native.py has the
// same.
enum class DropoutSite : uint32_t { probabilities = 0, post = 1, output = 2 };
inline constexpr int64_t kDropoutSites = 3;

// The dropout that keeps with probability 1 - p, 0 <= p <= 1.
Dropout dropout_of(uint64_t seed, DropoutSite site, double p);

// factors[r][c] is what `dropout` multiplies row r, column c by.
void dropout_factors(const KernelTable& table, const Parallel& parallel, const Dropout& dropout, int64_t rows,
                     int64_t columns, float* factors);

// Equal sequences: rows = batch * length.
struct TrainedAttention {
  TrainedConv query, key, value;  // equal n = num_heads * head size, equal in_channels
  int64_t num_heads, batch, length;
  AttentionMask mask;
  Dropout dropout;  // of the probabilities: row (b * num_heads + h) * length + query, column = key

  int64_t rows() const { return batch * length; }
};

// What the forward pass leaves: outputs of attention_forward, inputs of attention_backward.
struct AttentionState {
  float *q, *k, *v;  // [rows][n]
};

// context[rows][n] = dropout(softmax(q k^T / sqrt(d) + mask)) v.
void attention_forward(const KernelTable& table, const Parallel& parallel, Compute compute,
                       const TrainedAttention& attention, Input x, const AttentionState& state, Output context);

// Probabilities are computed again from q and k. dx: see conv_backward.
void attention_backward(const KernelTable& table, const Parallel& parallel, Compute compute,
                        const TrainedAttention& attention, Input x, const AttentionState& state, Input grad,
                        const ConvGradients (&gradients)[3], Output dx);

struct TrainedPostAttention {
  TrainedConv post, intermediate, output;
  Norm post_norm, output_norm;
  Activation activation;
  Dropout post_dropout, output_dropout;  // row = token, column = channel
};

// post_sum = dropout(post(context)) + residual, h = layer_norm(post_sum), z = intermediate(h),
// output_sum = dropout(output(activation(z))) + h, y = layer_norm(output_sum).
struct PostAttentionState {
  float *post_sum, *h, *z, *output_sum;
};

void post_attention_forward(const KernelTable& table, const Parallel& parallel, Compute compute,
                            const TrainedPostAttention& block, Input context, Input residual, int64_t rows,
                            const PostAttentionState& state, Output y);

struct PostAttentionGradients {
  ConvGradients post, intermediate, output;
  NormGradients post_norm, output_norm;
  Output residual;  // [rows][channels]
  Output context;   // [rows][in_channels of post]; null data: not wanted
};

void post_attention_backward(const KernelTable& table, const Parallel& parallel, Compute compute,
                             const TrainedPostAttention& block, Input context, int64_t rows,
                             const PostAttentionState& state, Input grad, const PostAttentionGradients& gradients);

}  // namespace sbk
