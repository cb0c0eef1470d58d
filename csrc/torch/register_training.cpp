// Training as torch ops: forward passes that return what gradients need, and the gradients. schemas.py in
// squeezebert_kernels/ops/ has the schemas, training.py calls them. Activations and parameters may be float32, float16
// or bfloat16; half precision is widened on the way in and rounded on the way out.
#include <torch/csrc/stable/library.h>

#include <array>
#include <string>
#include <tuple>
#include <vector>

#include "torch/arguments.h"
#include "training/trained_blocks.h"

namespace {

using namespace sbk_torch;

bool is_floating(const Tensor& t) {
  const ScalarType type = t.scalar_type();
  return type == ScalarType::Float || type == ScalarType::Half || type == ScalarType::BFloat16;
}

// An argument as contiguous float32.
struct Floats {
  Tensor tensor;

  Floats(const Tensor& t, const char* name) : tensor(t) {
    SBK_CHECK_ARGUMENT(t.is_cpu() && is_floating(t), name, " must be a float32, float16 or bfloat16 CPU tensor");
    check_memory(t, name);
    if (t.scalar_type() != ScalarType::Float) {
      tensor = torch::stable::new_empty(t, shape_of(t), ScalarType::Float);
      torch::stable::copy_(tensor, t);
    } else if (!t.is_contiguous()) {
      tensor = torch::stable::contiguous(t);
    }
  }
  Floats(const Tensor& t, int64_t rows, int64_t channels, const char* name) : Floats(t, name) {
    SBK_CHECK_ARGUMENT(t.dim() >= 1 && t.size(t.dim() - 1) == channels && t.numel() / channels == rows, name, " ",
                       shape(t), " must have ", rows, " rows of ", channels, " channels");
  }
  static std::vector<int64_t> shape_of(const Tensor& t) { return {t.sizes().begin(), t.sizes().end()}; }

  // The core reads what it is given as state, although a gradient's inputs and a forward pass's outputs share a type.
  float* data() const { return const_cast<float*>(static_cast<const float*>(tensor.const_data_ptr())); }
  sbk::Input matrix() const { return {data(), channels()}; }
  int64_t channels() const { return tensor.size(tensor.dim() - 1); }
};

// A vector of `n` values, or nothing.
struct OptionalFloats {
  std::optional<Floats> values;

  OptionalFloats(const OptionalTensor& t, int64_t n, const char* name) {
    if (!t) return;
    values.emplace(*t, name);
    SBK_CHECK_ARGUMENT(t->dim() == 1 && t->size(0) == n, name, " must have shape [", n, "], got ", shape(*t));
  }
  const float* data() const { return values ? values->data() : nullptr; }
};

// A result of the dtype of `like`, computed in float32; nothing, an empty tensor, where it is not wanted.
struct Result {
  Tensor floats;
  ScalarType type;

  // What is kept for gradients: float32 in place of float16, which cannot hold every value that is computed in float32.
  static Result state(const Tensor& like, const std::vector<int64_t>& sizes) {
    Result result(like, sizes);
    if (result.type == ScalarType::Half) result.type = ScalarType::Float;
    return result;
  }

  Result(const Tensor& like, const std::vector<int64_t>& sizes, bool is_wanted = true)
      : floats(torch::stable::new_empty(like, is_wanted ? sizes : std::vector<int64_t>{0}, ScalarType::Float)),
        type(like.scalar_type()),
        is_wanted_(is_wanted) {
    sbk::advise_huge_pages(mutable_floats(floats), floats.numel() * static_cast<int64_t>(sizeof(float)));
  }
  float* data() { return is_wanted_ ? mutable_floats(floats) : nullptr; }
  Tensor finish() {
    if (type == ScalarType::Float) return floats;
    Tensor y = torch::stable::new_empty(floats, Floats::shape_of(floats), type);
    torch::stable::copy_(y, floats);
    return y;
  }

 private:
  bool is_wanted_;
};

sbk::Compute training_compute(const std::string& dtype) {
  SBK_CHECK_ARGUMENT(dtype == "float32" || dtype == "bfloat16", "dtype must be 'float32' or 'bfloat16', got '", dtype,
                     "'");
  return dtype == "float32" ? sbk::Compute::float32 : sbk::Compute::bfloat16;
}

std::vector<int64_t> with_channels(const Tensor& x, int64_t channels) {
  std::vector<int64_t> sizes = Floats::shape_of(x);
  SBK_CHECK_ARGUMENT(!sizes.empty(), "activations must have channels, got a scalar");
  sizes.back() = channels;
  return sizes;
}

int64_t rows_of(const Tensor& x) {
  SBK_CHECK_ARGUMENT(x.dim() >= 1 && x.size(x.dim() - 1) > 0, "activations must have channels, got ", shape(x));
  return x.numel() / x.size(x.dim() - 1);
}

bool need(const std::vector<int64_t>& needs, size_t i) { return needs[i] != 0; }

void check_needs(const std::vector<int64_t>& needs, size_t count) {
  SBK_CHECK_ARGUMENT(needs.size() == count, "needs must have ", count, " entries, got ", needs.size());
}

// A conv's weight, and its bias where a forward pass adds it.
struct Trained {
  UserWeight shape;
  Floats weight;
  OptionalFloats bias;

  Trained(const Tensor& w, const OptionalTensor& b, int64_t groups, const char* name)
      : shape(w, groups), weight(w, name), bias(b, shape.view.n, "bias") {}
  sbk::TrainedConv conv() const { return {weight.data(), bias.data(), shape.view.n, shape.view.k, shape.view.groups}; }
  int64_t n() const { return shape.view.n; }
  int64_t in_channels() const { return shape.view.k * shape.view.groups; }
};

// The gradients of a conv's weight and bias.
struct TrainedGradients {
  Result weight, bias;

  TrainedGradients(const Tensor& w, bool needs_weight, bool needs_bias)
      : weight(w, Floats::shape_of(w), needs_weight), bias(w, {w.size(0)}, needs_bias) {}
  sbk::ConvGradients view() { return {weight.data(), bias.data()}; }
};

sbk::Dropout dropout_from(const OptionalTensor& seed, sbk::DropoutSite site, double p) {
  SBK_CHECK_ARGUMENT(p >= 0.0 && p <= 1.0, "the probability of dropout must be between 0 and 1, got ", p);
  if (!seed || p == 0.0) return {0, 0, 0, 1.0f};
  SBK_CHECK_ARGUMENT(seed->is_cpu() && seed->scalar_type() == ScalarType::Long && seed->numel() == 1,
                     "seed must be an int64 CPU tensor of one value");
  check_memory(*seed, "seed");
  return sbk::dropout_of(static_cast<uint64_t>(*static_cast<const int64_t*>(seed->const_data_ptr())), site, p);
}

Tensor dropout_factors(const Tensor& seed, int64_t site, int64_t rows, int64_t columns, double p) {
  SBK_CHECK_ARGUMENT(site >= 0 && site < sbk::kDropoutSites && rows >= 0 && columns >= 0, "there is no dropout site ",
                     site, " of ", rows, " x ", columns);
  const sbk::Dropout dropout = dropout_from(seed, static_cast<sbk::DropoutSite>(site), p);
  Tensor factors = torch::stable::new_empty(seed, {rows, columns}, ScalarType::Float);
  sbk::dropout_factors(table(), torch_parallel(), dropout, rows, columns, mutable_floats(factors));
  return factors;
}

std::tuple<Tensor, Tensor, Tensor> grouped_pointwise_conv_backward(const Tensor& grad_, const Tensor& x_,
                                                                   const Tensor& weight, int64_t groups,
                                                                   const std::vector<int64_t>& needs,
                                                                   const std::string& dtype) {
  check_needs(needs, 3);
  const Trained conv(weight, std::nullopt, groups, "weight");
  const int64_t rows = rows_of(x_);
  const Floats x(x_, rows, conv.in_channels(), "x"), grad(grad_, rows, conv.n(), "grad");
  Result dx(x_, Floats::shape_of(x_), need(needs, 0));
  TrainedGradients out(weight, need(needs, 1), need(needs, 2));
  const sbk::ConvBackward backward{conv.conv(), grad.matrix(), out.view()};
  sbk::conv_backward(table(), torch_parallel(), training_compute(dtype), &backward, 1, x.matrix(), rows,
                     {dx.data(), conv.in_channels()});
  return {dx.finish(), out.weight.finish(), out.bias.finish()};
}

// The convs of attention_block, with its sizes and mask.
struct TrainedAttentionArguments {
  Trained q, k, v;
  Floats x;
  int64_t rows, num_heads;
  std::optional<Floats> wide_mask;
  MaskArgument mask;
  sbk::Dropout dropout;

  TrainedAttentionArguments(const Tensor& x_, const ConvArguments& q_, const ConvArguments& k_, const ConvArguments& v_,
                            const OptionalTensor& mask_, const OptionalTensor& seed, int64_t heads, double dropout_p)
      : q(q_.weight, q_.bias, q_.groups, "q_weight"),
        k(k_.weight, k_.bias, k_.groups, "k_weight"),
        v(v_.weight, v_.bias, v_.groups, "v_weight"),
        x(x_, "x"),
        rows(rows_of_sequences(x_)),
        num_heads(heads),
        mask(widened(mask_), x_.size(0), heads, x_.size(1), false),
        dropout(dropout_from(seed, sbk::DropoutSite::probabilities, dropout_p)) {
    check_heads(heads, q.n());
    SBK_CHECK_ARGUMENT(q.n() == k.n() && q.n() == v.n(),
                       "q_weight, k_weight and v_weight must have equal output channels");
    for (const Trained* conv : {&q, &k, &v}) {
      SBK_CHECK_ARGUMENT(x.channels() == conv->in_channels(), "x ", shape(x_), " must have ", conv->in_channels(),
                         " channels");
    }
  }
  sbk::TrainedAttention attention() const {
    return {q.conv(), k.conv(), v.conv(), num_heads, x.tensor.size(0), x.tensor.size(1), mask.view, dropout};
  }

 private:
  static int64_t rows_of_sequences(const Tensor& x) {
    SBK_CHECK_ARGUMENT(x.dim() == 3, "x must be [batch, sequence, channels], got ", shape(x));
    return rows_of(x);
  }
  OptionalTensor widened(const OptionalTensor& mask_) {
    if (!mask_ || mask_->scalar_type() == ScalarType::Float) return mask_;
    wide_mask.emplace(*mask_, "attention_mask");
    return wide_mask->tensor;
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> attention_block_train(
    const Tensor& x, const Tensor& q_weight, const OptionalTensor& q_bias, const Tensor& k_weight,
    const OptionalTensor& k_bias, const Tensor& v_weight, const OptionalTensor& v_bias, const OptionalTensor& mask,
    const OptionalTensor& seed, int64_t num_heads, int64_t q_groups, int64_t k_groups, int64_t v_groups,
    double dropout_p, const std::string& dtype) {
  const TrainedAttentionArguments a(x, {q_weight, q_bias, q_groups}, {k_weight, k_bias, k_groups},
                                    {v_weight, v_bias, v_groups}, mask, seed, num_heads, dropout_p);
  const std::vector<int64_t> sizes = with_channels(x, a.q.n());
  Result context(x, sizes), q = Result::state(x, sizes), k = Result::state(x, sizes), v = Result::state(x, sizes);
  // lse, the log-sum-exp of each row of scores, is state of the GPU's kernels only. Gradients here compute
  // probabilities again without it.
  Tensor lse = torch::stable::new_empty(x, {0}, ScalarType::Float);
  sbk::attention_forward(table(), torch_parallel(), training_compute(dtype), a.attention(), a.x.matrix(),
                         {q.data(), k.data(), v.data()}, {context.data(), a.q.n()});
  return {context.finish(), q.finish(), k.finish(), v.finish(), lse};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> attention_block_backward(
    const Tensor& grad_, const Tensor& x, const Tensor& q_weight, const Tensor& k_weight, const Tensor& v_weight,
    const OptionalTensor& mask, const OptionalTensor& seed, const Tensor&, const Tensor& q_, const Tensor& k_,
    const Tensor& v_, const Tensor&, int64_t num_heads, int64_t q_groups, int64_t k_groups, int64_t v_groups,
    double dropout_p, const std::string& dtype, const std::vector<int64_t>& needs) {
  check_needs(needs, 7);
  const TrainedAttentionArguments a(x, {q_weight, std::nullopt, q_groups}, {k_weight, std::nullopt, k_groups},
                                    {v_weight, std::nullopt, v_groups}, mask, seed, num_heads, dropout_p);
  const int64_t n = a.q.n();
  const Floats grad(grad_, a.rows, n, "grad"), q(q_, a.rows, n, "q"), k(k_, a.rows, n, "k"), v(v_, a.rows, n, "v");
  Result dx(x, Floats::shape_of(x), need(needs, 0));
  TrainedGradients dq(q_weight, need(needs, 1), need(needs, 2)), dk(k_weight, need(needs, 3), need(needs, 4)),
      dv(v_weight, need(needs, 5), need(needs, 6));
  sbk::attention_backward(table(), torch_parallel(), training_compute(dtype), a.attention(), a.x.matrix(),
                          {q.data(), k.data(), v.data()}, grad.matrix(), {dq.view(), dk.view(), dv.view()},
                          {dx.data(), a.x.channels()});
  return {dx.finish(),      dq.weight.finish(), dq.bias.finish(), dk.weight.finish(),
          dk.bias.finish(), dv.weight.finish(), dv.bias.finish()};
}

// The convs and norms of post_attention_block. The beta of a norm is not needed for gradients.
struct TrainedPostAttentionArguments {
  Trained post, intermediate, output;
  OptionalFloats post_gamma, post_beta, output_gamma, output_beta;
  float post_eps, output_eps;
  sbk::Activation activation;
  sbk::Dropout post_dropout, output_dropout;

  TrainedPostAttentionArguments(const ConvArguments& post_, const ConvArguments& intermediate_,
                                const ConvArguments& output_, const Tensor& post_norm_weight,
                                const OptionalTensor& post_norm_bias, const Tensor& output_norm_weight,
                                const OptionalTensor& output_norm_bias, const std::string& activation_name,
                                double eps_of_post, double eps_of_output, const OptionalTensor& seed,
                                double post_dropout_p, double output_dropout_p)
      : post(post_.weight, post_.bias, post_.groups, "post_weight"),
        intermediate(intermediate_.weight, intermediate_.bias, intermediate_.groups, "intermediate_weight"),
        output(output_.weight, output_.bias, output_.groups, "output_weight"),
        post_gamma(post_norm_weight, post.n(), "post_norm_weight"),
        post_beta(post_norm_bias, post.n(), "post_norm_bias"),
        output_gamma(output_norm_weight, post.n(), "output_norm_weight"),
        output_beta(output_norm_bias, post.n(), "output_norm_bias"),
        post_eps(checked_eps(eps_of_post, "post_eps")),
        output_eps(checked_eps(eps_of_output, "output_eps")),
        activation(activation_from(activation_name)),
        post_dropout(dropout_from(seed, sbk::DropoutSite::post, post_dropout_p)),
        output_dropout(dropout_from(seed, sbk::DropoutSite::output, output_dropout_p)) {
    SBK_CHECK_ARGUMENT(
        intermediate.in_channels() == post.n() && output.in_channels() == intermediate.n() && output.n() == post.n(),
        "post, intermediate and output weights do not follow one another");
  }
  sbk::TrainedPostAttention block() const {
    return {post.conv(),
            intermediate.conv(),
            output.conv(),
            {post_gamma.data(), post_beta.data(), post_eps},
            {output_gamma.data(), output_beta.data(), output_eps},
            activation,
            post_dropout,
            output_dropout};
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> post_attention_block_train(
    const Tensor& context_, const Tensor& residual_, const Tensor& post_weight, const OptionalTensor& post_bias,
    const Tensor& post_norm_weight, const Tensor& post_norm_bias, const Tensor& intermediate_weight,
    const OptionalTensor& intermediate_bias, const Tensor& output_weight, const OptionalTensor& output_bias,
    const Tensor& output_norm_weight, const Tensor& output_norm_bias, const OptionalTensor& seed, int64_t post_groups,
    int64_t intermediate_groups, int64_t output_groups, const std::string& activation, double post_eps,
    double output_eps, double post_dropout_p, double output_dropout_p, const std::string& dtype) {
  const TrainedPostAttentionArguments a(
      {post_weight, post_bias, post_groups}, {intermediate_weight, intermediate_bias, intermediate_groups},
      {output_weight, output_bias, output_groups}, post_norm_weight, post_norm_bias, output_norm_weight,
      output_norm_bias, activation, post_eps, output_eps, seed, post_dropout_p, output_dropout_p);
  const int64_t rows = rows_of(context_), n = a.post.n(), wide = a.intermediate.n();
  const Floats context(context_, rows, a.post.in_channels(), "context"), residual(residual_, rows, n, "residual");
  const std::vector<int64_t> sizes = with_channels(context_, n);
  Result y(context_, sizes), post_sum = Result::state(context_, sizes), h = Result::state(context_, sizes);
  Result output_sum = Result::state(context_, sizes), z = Result::state(context_, with_channels(context_, wide));
  sbk::post_attention_forward(table(), torch_parallel(), training_compute(dtype), a.block(), context.matrix(),
                              residual.matrix(), rows, {post_sum.data(), h.data(), z.data(), output_sum.data()},
                              {y.data(), n});
  return {y.finish(), post_sum.finish(), h.finish(), z.finish(), output_sum.finish()};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>
post_attention_block_backward(const Tensor& grad_, const Tensor& context_, const Tensor& post_weight,
                              const Tensor& post_norm_weight, const Tensor& intermediate_weight,
                              const Tensor& output_weight, const Tensor& output_norm_weight, const OptionalTensor& seed,
                              const Tensor& post_sum_, const Tensor& h_, const Tensor& z_, const Tensor& output_sum_,
                              int64_t post_groups, int64_t intermediate_groups, int64_t output_groups,
                              const std::string& activation, double post_eps, double output_eps, double post_dropout_p,
                              double output_dropout_p, const std::string& dtype, const std::vector<int64_t>& needs) {
  check_needs(needs, 12);
  const OptionalTensor none;
  const TrainedPostAttentionArguments a(
      {post_weight, none, post_groups}, {intermediate_weight, none, intermediate_groups},
      {output_weight, none, output_groups}, post_norm_weight, none, output_norm_weight, none, activation, post_eps,
      output_eps, seed, post_dropout_p, output_dropout_p);
  const int64_t rows = rows_of(context_), n = a.post.n(), wide = a.intermediate.n();
  const Floats context(context_, rows, a.post.in_channels(), "context"), grad(grad_, rows, n, "grad");
  const Floats post_sum(post_sum_, rows, n, "post_sum"), h(h_, rows, n, "h"), z(z_, rows, wide, "z");
  const Floats output_sum(output_sum_, rows, n, "output_sum");
  Result dcontext(context_, Floats::shape_of(context_), need(needs, 0));
  Result dresidual(grad_, with_channels(context_, n));
  TrainedGradients post(post_weight, need(needs, 2), need(needs, 3)),
      intermediate(intermediate_weight, need(needs, 6), need(needs, 7)),
      output(output_weight, need(needs, 8), need(needs, 9));
  Result post_gamma(post_norm_weight, {n}), post_beta(post_norm_weight, {n});
  Result output_gamma(output_norm_weight, {n}), output_beta(output_norm_weight, {n});
  sbk::post_attention_backward(table(), torch_parallel(), training_compute(dtype), a.block(), context.matrix(), rows,
                               {post_sum.data(), h.data(), z.data(), output_sum.data()}, grad.matrix(),
                               {post.view(),
                                intermediate.view(),
                                output.view(),
                                {post_gamma.data(), post_beta.data()},
                                {output_gamma.data(), output_beta.data()},
                                {dresidual.data(), n},
                                {dcontext.data(), a.post.in_channels()}});
  return {dcontext.finish(),      dresidual.finish(),   post.weight.finish(),         post.bias.finish(),
          post_gamma.finish(),    post_beta.finish(),   intermediate.weight.finish(), intermediate.bias.finish(),
          output.weight.finish(), output.bias.finish(), output_gamma.finish(),        output_beta.finish()};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(squeezebert_kernels, CPU, m) {
  m.impl("dropout_factors", TORCH_BOX(&dropout_factors));
  m.impl("grouped_pointwise_conv_backward", TORCH_BOX(&grouped_pointwise_conv_backward));
  m.impl("attention_block_train", TORCH_BOX(&attention_block_train));
  m.impl("attention_block_backward", TORCH_BOX(&attention_block_backward));
  m.impl("post_attention_block_train", TORCH_BOX(&post_attention_block_train));
  m.impl("post_attention_block_backward", TORCH_BOX(&post_attention_block_backward));
}
