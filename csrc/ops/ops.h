// ops/ is the room of what is computed in inference: operations over whole tensors (this file, conv.h) and their packed
// weights (packed.h, values.h). It divides tensors into blocks and shares them between threads; the arithmetic is in
// kernels/. The frontends, torch/ and capi/, check arguments.
//
// All activations are fp32 and token-major: row r of a tensor starts at data + r * stride. Every function is
// thread-safe; scratch memory is the calling threads' (runtime/workspace.h), std::bad_alloc is the only exception.
#pragma once
#include <cstdint>

#include "kernels/table.h"
#include "ops/packed.h"
#include "runtime/parallel.h"

namespace sbk {

// A row-major matrix; `stride` floats between rows.
template <class T>
struct Matrix {
  T* data;
  int64_t stride;

  T* row(int64_t r) const { return data + r * stride; }
};
using Input = Matrix<const float>;
using Output = Matrix<float>;

// A grouped pointwise convolution with packed weights.
struct Conv {
  const PackedHeader* weight;
  const float* bias;  // [n] or null

  int64_t in_channels() const { return weight->k * weight->groups; }
  int64_t out_channels() const { return weight->n; }
};

struct Norm {
  const float* gamma;  // [channels]
  const float* beta;   // [channels]
  float eps;
};

// How ops divide their rows between tasks, which also decides how much scratch memory they need.
//
// Tokens of a task at most: enough for the weights that a task reads from L2 or L3 to be used often, few enough for a
// task's activations to stay in L2.
inline constexpr int64_t kTokenTile = 64;
// Tokens per thread up to which threads share weights instead of tokens: fewer rows than this are multiplied faster
// than weights come from memory.
inline constexpr int64_t kFewTokens = 16;

// y = activation(conv(x)), [rows][out_channels]; x is [rows][in_channels]. y does not overlap x.
void grouped_pointwise_conv(const KernelTable& table, const Parallel& parallel, const Conv& conv, Input x, int64_t rows,
                            Activation activation, Output y);

// y = layer_norm(conv(x) + residual); y may be the residual.
void grouped_pointwise_conv_layer_norm(const KernelTable& table, const Parallel& parallel, const Conv& conv,
                                       const Norm& norm, Input x, Input residual, int64_t rows, Output y);

// Additive mask: value at data + b * stride[0] + h * stride[1] + q * stride[2] + key; strides may be 0.
struct AttentionMask {
  const float* data;  // null: no mask
  int64_t stride[3];
};

struct AttentionBlock {
  Conv query, key, value;  // equal out_channels = num_heads * head size
  int64_t num_heads;
};

// Sequences that follow each other in the rows of a matrix: sequence b is rows [offsets[b], offsets[b + 1]). offsets[0]
// = 0, ascending. The sequences of a padded batch may all have its length, or only their real tokens.
struct Sequences {
  int64_t batch;
  const int64_t* offsets;  // [batch + 1]

  int64_t rows() const { return offsets[batch]; }
  int64_t length(int64_t b) const { return offsets[b + 1] - offsets[b]; }
};

// context = attention of every sequence of x with itself. x is [rows][in_channels], context [rows][out_channels]; no
// overlap. One task per head and sequence: projections, softmax(q k^T / sqrt(d) + mask), times v.
void attention_block(const KernelTable& table, const Parallel& parallel, const AttentionBlock& block, Input x,
                     const Sequences& sequences, const AttentionMask& mask, Output context);

struct PostAttentionBlock {
  Conv post, intermediate, output;
  Norm post_norm, output_norm;
  Activation activation;
};

// h = layer_norm(post(context) + residual); y = layer_norm(output(activation(intermediate(h))) + h). One task per tile
// of tokens; where intermediate and output have equal groups, the hidden activations of one group at a time stay in
// cache. With few tokens one task per block of columns of each conv in turn. y may be the residual or the context.
void post_attention_block(const KernelTable& table, const Parallel& parallel, const PostAttentionBlock& block,
                          Input context, Input residual, int64_t rows, Output y);

// A whole layer: post_attention_block of the attention_block of x, with x as the residual. y may be x.
void encoder_layer(const KernelTable& table, const Parallel& parallel, const AttentionBlock& attention,
                   const PostAttentionBlock& post_attention, Input x, const Sequences& sequences,
                   const AttentionMask& mask, Output y);

}  // namespace sbk
