// Single ops.
#include "ops/ops.h"

#include <algorithm>
#include <cmath>

#include "capi/capi.h"

using namespace sbk;
using namespace sbk::capi;

namespace {

// Runs `op`(table, parallel), which is measured first.
template <class F>
void run_op(sbk_context* context, const F& op) {
  require(context, "context");
  const KernelTable& table = active();
  const Demand demand = measure(table, context->executor->threads(), op);
  run_in(context, demand, [&](const Parallel& parallel) { op(table, parallel); });
}

Conv to_conv(const sbk_conv& conv, const char* name, int64_t num_heads = 0) {
  if (conv.weight == nullptr) fail(SBK_INVALID_ARGUMENT, name, ".weight is NULL");
  if (conv.weight->num_heads != num_heads) {
    fail(SBK_INVALID_ARGUMENT, name, ".weight was made with num_heads=", conv.weight->num_heads, ", not ", num_heads);
  }
  return {conv.weight->packed, conv.bias};
}

Norm to_norm(const sbk_norm& norm, const char* name) {
  if (norm.weight == nullptr || norm.bias == nullptr) fail(SBK_INVALID_ARGUMENT, name, ": weight or bias is NULL");
  if (!(norm.eps >= 0 && std::isfinite(norm.eps))) {
    fail(SBK_INVALID_ARGUMENT, name, ": eps=", norm.eps, " is negative or not finite");
  }
  return {norm.weight, norm.bias, norm.eps};
}

Activation to_activation(const sbk_activation& activation, const char* name) {
  require_range(number_of(activation), SBK_ACTIVATION_NONE, SBK_ACTIVATION_RELU, name);
  return static_cast<Activation>(number_of(activation));
}

// What a conv reads must be what another writes.
void require_channels(int64_t found, int64_t wanted, const char* what) {
  if (found != wanted) fail(SBK_INVALID_ARGUMENT, what, ": ", found, " channels, should be ", wanted);
}

// As many as rows of `channels` floats can have, which is far more than there is memory for: what is computed from them
// fits 64 bits.
void require_tokens(int64_t tokens, std::initializer_list<int64_t> channels) {
  require_range(tokens, 0, (int64_t{1} << 48) / std::max(channels), "tokens");
}

Input in(const float* x, int64_t channels) { return {x, channels}; }
Output out(float* y, int64_t channels) { return {y, channels}; }

}  // namespace

sbk_status sbk_weight_create(const float* weight, int32_t out_channels, int32_t in_channels, int32_t groups,
                             int32_t num_heads, sbk_dtype dtype, sbk_weight** packed) {
  return guarded([&] {
    require(weight, "weight");
    require(packed, "packed");
    require_range(out_channels, 1, 1 << 24, "out_channels");
    require_range(in_channels, 1, 1 << 24, "in_channels");
    require_range(groups, 1, std::min(in_channels, out_channels), "groups");
    require_range(num_heads, 0, out_channels, "num_heads");
    if (in_channels % groups != 0 || out_channels % groups != 0) {
      fail(SBK_INVALID_ARGUMENT, "groups=", groups, " does not divide in_channels=", in_channels,
           " and out_channels=", out_channels);
    }
    if (num_heads > 0 && out_channels % num_heads != 0) {
      fail(SBK_INVALID_ARGUMENT, "num_heads=", num_heads, " does not divide out_channels=", out_channels);
    }
    require_range(number_of(dtype), SBK_DTYPE_DEFAULT, SBK_FLOAT16, "dtype");
    Compute compute = Compute::float32;
    if (dtype != SBK_DTYPE_DEFAULT) to_compute(dtype, &compute);
    const TierLayout& layout = active().layout;
    const Weight w{weight, WeightType::float32, out_channels, in_channels / groups, groups};
    auto made = std::make_unique<sbk_weight>();
    const auto bytes = static_cast<std::size_t>(packed_bytes(layout, w, num_heads, compute));
    made->memory.reset(new std::byte[bytes + kCacheLine]);
    std::byte* aligned = made->memory.get() + kCacheLine - reinterpret_cast<uintptr_t>(made->memory.get()) % kCacheLine;
    pack(layout, w, num_heads, aligned, serial(), compute);
    made->num_heads = num_heads;
    made->packed = reinterpret_cast<const PackedHeader*>(aligned);
    *packed = made.release();
  });
}

void sbk_weight_free(sbk_weight* packed) { delete packed; }

sbk_status sbk_grouped_pointwise_conv(sbk_context* context, const sbk_conv* conv, sbk_activation activation,
                                      const float* x, int64_t tokens, float* y) {
  return guarded([&] {
    const Conv c = to_conv(require(conv, "conv"), "conv");
    const Activation act = to_activation(activation, "activation");
    require_tokens(tokens, {c.in_channels(), c.out_channels()});
    if (tokens == 0) return;
    require(x, "x");
    require(y, "y");
    run_op(context, [&](const KernelTable& table, const Parallel& parallel) {
      grouped_pointwise_conv(table, parallel, c, in(x, c.in_channels()), tokens, act, out(y, c.out_channels()));
    });
  });
}

sbk_status sbk_grouped_pointwise_conv_layer_norm(sbk_context* context, const sbk_conv* conv, const sbk_norm* norm,
                                                 const float* x, const float* residual, int64_t tokens, float* y) {
  return guarded([&] {
    const Conv c = to_conv(require(conv, "conv"), "conv");
    const Norm n = to_norm(require(norm, "norm"), "norm");
    require_tokens(tokens, {c.in_channels(), c.out_channels()});
    if (tokens == 0) return;
    require(x, "x");
    require(residual, "residual");
    require(y, "y");
    const int64_t channels = c.out_channels();
    run_op(context, [&](const KernelTable& table, const Parallel& parallel) {
      grouped_pointwise_conv_layer_norm(table, parallel, c, n, in(x, c.in_channels()), in(residual, channels), tokens,
                                        out(y, channels));
    });
  });
}

sbk_status sbk_attention_block(sbk_context* context, const sbk_attention* attention, const float* x,
                               float* context_layer) {
  return guarded([&] {
    const sbk_attention a = versioned(attention, "attention");
    require_range(a.num_heads, 1, 1 << 16, "attention->num_heads");
    require_range(a.batch, 0, 1 << 20, "attention->batch");
    require_range(a.length, 0, 1 << 20, "attention->length");
    const AttentionBlock block{to_conv(a.query, "attention->query", a.num_heads),
                               to_conv(a.key, "attention->key", a.num_heads),
                               to_conv(a.value, "attention->value", a.num_heads), a.num_heads};
    const int64_t channels = block.query.out_channels();
    for (const Conv* c : {&block.key, &block.value}) {
      require_channels(c->out_channels(), channels, "attention->key and value");
      require_channels(c->in_channels(), block.query.in_channels(), "attention->key and value");
      // The input is encoded once for all three.
      if (c->weight->compute != block.query.weight->compute) {
        fail(SBK_INVALID_ARGUMENT, "attention->key and value: made with another dtype than attention->query");
      }
    }
    require_tokens(a.batch * a.length, {block.query.in_channels(), channels});
    if (a.batch == 0 || a.length == 0) return;
    require(x, "x");
    require(context_layer, "context_layer");
    std::vector<int64_t> offsets;
    for (int64_t b = 0; b <= a.batch; b++) offsets.push_back(b * a.length);
    run_op(context, [&](const KernelTable& table, const Parallel& parallel) {
      attention_block(table, parallel, block, in(x, block.query.in_channels()), {a.batch, offsets.data()},
                      {a.mask, {a.length, 0, 0}}, out(context_layer, channels));
    });
  });
}

sbk_status sbk_post_attention_block(sbk_context* context, const sbk_post_attention* given, const float* context_layer,
                                    const float* residual, int64_t tokens, float* y) {
  return guarded([&] {
    const sbk_post_attention p = versioned(given, "block");
    const PostAttentionBlock block{to_conv(p.post, "block->post"),
                                   to_conv(p.intermediate, "block->intermediate"),
                                   to_conv(p.output, "block->output"),
                                   to_norm(p.post_norm, "block->post_norm"),
                                   to_norm(p.output_norm, "block->output_norm"),
                                   to_activation(p.activation, "block->activation")};
    const int64_t channels = block.post.out_channels();
    require_channels(block.intermediate.in_channels(), channels, "input of block->intermediate");
    require_channels(block.output.in_channels(), block.intermediate.out_channels(), "input of block->output");
    require_channels(block.output.out_channels(), channels, "block->output");
    require_tokens(tokens, {block.post.in_channels(), channels, block.intermediate.out_channels()});
    if (tokens == 0) return;
    require(context_layer, "context_layer");
    require(residual, "residual");
    require(y, "y");
    run_op(context, [&](const KernelTable& table, const Parallel& parallel) {
      post_attention_block(table, parallel, block, in(context_layer, block.post.in_channels()), in(residual, channels),
                           tokens, out(y, channels));
    });
  });
}
