// The CPU kernels as torch ops, on the LibTorch stable ABI: torch headers are included in this folder only. Schemas,
// shape functions and gradients are in squeezebert_kernels/ops/schemas.py and gradients.py.
#include <torch/csrc/stable/library.h>

#include <string>
#include <tuple>
#include <vector>

#include "ops/checksum.h"
#include "torch/arguments.h"

namespace {

using namespace sbk_torch;

sbk::Compute compute_from(const std::string& dtype) {
  if (dtype == "float32") return sbk::Compute::float32;
  if (dtype == "bfloat16") return sbk::Compute::bfloat16;
  SBK_CHECK_ARGUMENT(dtype == "int8", "dtype must be 'float32', 'bfloat16' or 'int8', got '", dtype, "'");
  return sbk::Compute::int8;
}

Tensor grouped_pointwise_conv(const Tensor& x_, const Tensor& weight, const OptionalTensor& bias_, int64_t groups,
                              const std::string& activation, const OptionalTensor& packed) {
  const Float x(x_, "x");
  const Convs convs({UserWeight(weight, groups)}, packed);
  const Vector bias(bias_, convs.out_channels(0), "bias");
  check_channels(x, convs.in_channels(0), "x");
  Tensor y = new_output(x.tensor, convs.out_channels(0));
  sbk::grouped_pointwise_conv(table(), torch_parallel(), convs.with_bias(0, bias), x.matrix(), x.rows(),
                              activation_from(activation), {mutable_floats(y), convs.out_channels(0)});
  return y;
}

Tensor grouped_pointwise_conv_layer_norm(const Tensor& x_, const Tensor& weight, const OptionalTensor& bias_,
                                         const Tensor& residual_, const Tensor& norm_weight, const Tensor& norm_bias,
                                         int64_t groups, double eps, const OptionalTensor& packed) {
  const Float x(x_, "x"), residual(residual_, "residual");
  const Convs convs({UserWeight(weight, groups)}, packed);
  const int64_t n = convs.out_channels(0);
  const Vector bias(bias_, n, "bias"), gamma(norm_weight, n, "norm_weight"), beta(norm_bias, n, "norm_bias");
  check_channels(x, convs.in_channels(0), "x");
  check_channels(residual, n, "residual");
  check_same_rows(x, residual, "residual");
  Tensor y = new_output(x.tensor, n);
  sbk::grouped_pointwise_conv_layer_norm(table(), torch_parallel(), convs.with_bias(0, bias),
                                         {gamma.data(), beta.data(), checked_eps(eps, "eps")}, x.matrix(),
                                         residual.matrix(), x.rows(), {mutable_floats(y), n});
  return y;
}

Tensor attention_block(const Tensor& x_, const Tensor& q_weight, const OptionalTensor& q_bias, const Tensor& k_weight,
                       const OptionalTensor& k_bias, const Tensor& v_weight, const OptionalTensor& v_bias,
                       const OptionalTensor& mask_, int64_t num_heads, int64_t q_groups, int64_t k_groups,
                       int64_t v_groups, const OptionalTensor& packed, const OptionalTensor& offsets) {
  const Float x(x_, "x");
  const SequenceArguments sequences(x_, offsets);
  const AttentionArguments attention({q_weight, q_bias, q_groups}, {k_weight, k_bias, k_groups},
                                     {v_weight, v_bias, v_groups}, num_heads, packed);
  attention.check_input(x);
  const MaskArgument mask(mask_, sequences.batch, num_heads, sequences.longest, offsets.has_value());
  Tensor context = new_output(x.tensor, attention.channels);
  sbk::attention_block(table(), torch_parallel(), attention.block(), x.matrix(), sequences.view(), mask.view,
                       {mutable_floats(context), attention.channels});
  return context;
}

Tensor post_attention_block(const Tensor& context_, const Tensor& residual_, const Tensor& post_weight,
                            const OptionalTensor& post_bias, const Tensor& post_norm_weight,
                            const Tensor& post_norm_bias, const Tensor& intermediate_weight,
                            const OptionalTensor& intermediate_bias, const Tensor& output_weight,
                            const OptionalTensor& output_bias, const Tensor& output_norm_weight,
                            const Tensor& output_norm_bias, int64_t post_groups, int64_t intermediate_groups,
                            int64_t output_groups, const std::string& activation, double post_eps, double output_eps,
                            const OptionalTensor& packed) {
  const Float context(context_, "context"), residual(residual_, "residual");
  const PostAttentionArguments post({post_weight, post_bias, post_groups}, post_norm_weight, post_norm_bias,
                                    {intermediate_weight, intermediate_bias, intermediate_groups},
                                    {output_weight, output_bias, output_groups}, output_norm_weight, output_norm_bias,
                                    activation, post_eps, output_eps, packed);
  check_channels(context, post.convs.in_channels(0), "context");
  check_channels(residual, post.channels, "residual");
  check_same_rows(context, residual, "residual");
  Tensor y = new_output(residual.tensor, post.channels);
  sbk::post_attention_block(table(), torch_parallel(), post.block(), context.matrix(), residual.matrix(),
                            context.rows(), {mutable_floats(y), post.channels});
  return y;
}

Tensor encoder_layer(const Tensor& x_, const Tensor& q_weight, const OptionalTensor& q_bias, const Tensor& k_weight,
                     const OptionalTensor& k_bias, const Tensor& v_weight, const OptionalTensor& v_bias,
                     const OptionalTensor& mask_, const Tensor& post_weight, const OptionalTensor& post_bias,
                     const Tensor& post_norm_weight, const Tensor& post_norm_bias, const Tensor& intermediate_weight,
                     const OptionalTensor& intermediate_bias, const Tensor& output_weight,
                     const OptionalTensor& output_bias, const Tensor& output_norm_weight,
                     const Tensor& output_norm_bias, const Tensor& attention_packed, const Tensor& post_packed,
                     int64_t num_heads, int64_t q_groups, int64_t k_groups, int64_t v_groups, int64_t post_groups,
                     int64_t intermediate_groups, int64_t output_groups, const std::string& activation, double post_eps,
                     double output_eps, const OptionalTensor& offsets) {
  const Float x(x_, "x");
  const SequenceArguments sequences(x_, offsets);
  const AttentionArguments attention({q_weight, q_bias, q_groups}, {k_weight, k_bias, k_groups},
                                     {v_weight, v_bias, v_groups}, num_heads, attention_packed, "attention_");
  const PostAttentionArguments post({post_weight, post_bias, post_groups}, post_norm_weight, post_norm_bias,
                                    {intermediate_weight, intermediate_bias, intermediate_groups},
                                    {output_weight, output_bias, output_groups}, output_norm_weight, output_norm_bias,
                                    activation, post_eps, output_eps, post_packed, "post_");
  attention.check_input(x);
  check_channels(x, post.channels, "x");
  SBK_CHECK_ARGUMENT(post.convs.in_channels(0) == attention.channels, "post_weight takes ", post.convs.in_channels(0),
                     " channels, but the attention context has ", attention.channels);
  const MaskArgument mask(mask_, sequences.batch, num_heads, sequences.longest, offsets.has_value());
  Tensor y = new_output(x.tensor, post.channels);
  sbk::encoder_layer(table(), torch_parallel(), attention.block(), post.block(), x.matrix(), sequences.view(),
                     mask.view, {mutable_floats(y), post.channels});
  return y;
}

std::vector<UserWeight> user_weights(const std::vector<Tensor>& weights, const std::vector<int64_t>& groups) {
  SBK_CHECK_ARGUMENT(!weights.empty() && weights.size() == groups.size(), "pack needs as many groups as weights, got ",
                     groups.size(), " and ", weights.size());
  std::vector<UserWeight> result;
  for (size_t i = 0; i < weights.size(); i++) result.emplace_back(weights[i], groups[i]);
  return result;
}

Tensor pack(const std::vector<Tensor>& weights, const std::vector<int64_t>& groups, int64_t num_heads,
            const std::string& dtype) {
  const std::vector<UserWeight> checked = user_weights(weights, groups);
  for (const UserWeight& w : checked) {
    if (num_heads != 0) check_heads(num_heads, w.view.n);
  }
  return pack_weights(checked, num_heads, compute_from(dtype));
}

int64_t packed_bytes(const std::vector<int64_t>& n, const std::vector<int64_t>& k, const std::vector<int64_t>& groups,
                     int64_t num_heads, const std::string& dtype) {
  return packed_size(weight_shapes(n, k, groups, num_heads), num_heads, compute_from(dtype));
}

// (values, scale) of one section: float32 [n, k] and nothing, or int8 [n, k] and float32 [n].
std::tuple<Tensor, Tensor> unpack(const Tensor& packed, const std::vector<int64_t>& n, const std::vector<int64_t>& k,
                                  const std::vector<int64_t>& groups, int64_t num_heads, const std::string& dtype,
                                  int64_t section) {
  const std::vector<sbk::Weight> weights = weight_shapes(n, k, groups, num_heads);
  const auto i = static_cast<size_t>(section);
  SBK_CHECK_ARGUMENT(i < weights.size(), "section=", section, " is none of the ", weights.size(), " sections");
  const sbk::PackedHeader* header = sections_of(weights, num_heads, packed)[i];
  const sbk::Compute compute = compute_from(dtype);
  SBK_CHECK_ARGUMENT(header->is(compute), "packed was not made for dtype='", dtype, "'");
  const bool int8 = compute == sbk::Compute::int8;
  Tensor values = torch::stable::new_empty(packed, {n[i], k[i]}, int8 ? ScalarType::Char : ScalarType::Float);
  Tensor scale = torch::stable::new_empty(packed, {int8 ? n[i] : 0}, ScalarType::Float);
  sbk::unpack(*header, values.mutable_data_ptr(), mutable_floats(scale), torch_parallel());
  return {values, scale};
}

int64_t bytes_of(const sbk::Weight& w) { return w.n * w.k * static_cast<int64_t>(sbk::value_size(w.type)); }

// int64 [pieces of every weight, one weight after the other].
Tensor checksums(const std::vector<Tensor>& weights) {
  std::vector<WeightValues> values;
  int64_t count = 0;
  for (const UserWeight& w : user_weights(weights, std::vector<int64_t>(weights.size(), 1))) {
    values.emplace_back(w);
    count += sbk::piece_count(bytes_of(values.back().view));
  }
  Tensor result = torch::stable::new_empty(weights[0], {count}, ScalarType::Long);
  auto* out = static_cast<int64_t*>(result.mutable_data_ptr());
  for (const WeightValues& w : values) {
    const int64_t bytes = bytes_of(w.view), pieces = sbk::piece_count(bytes);
    parallel_for(torch_parallel(), pieces, [&](int64_t i) { out[i] = sbk::piece_checksum(w.view.data, bytes, i); });
    out += pieces;
  }
  return result;
}

// Whether weights have the checksums that they had: of each, the pieces from `first` to `first + count` parts in 8192,
// at least one piece, going on at the beginning behind the end.
bool same_checksums(const std::vector<Tensor>& weights, const Tensor& checksums, int64_t first, int64_t count) {
  constexpr int64_t kParts = 8192;
  SBK_CHECK_ARGUMENT(checksums.is_cpu() && checksums.scalar_type() == ScalarType::Long && checksums.is_contiguous(),
                     "checksums must be a contiguous int64 CPU tensor");
  SBK_CHECK_ARGUMENT(0 <= first && first < kParts && 0 <= count && count <= kParts, "first=", first,
                     " and count=", count, " must be from 0 to ", kParts);
  check_memory(checksums, "checksums");
  const auto* expected = static_cast<const int64_t*>(checksums.const_data_ptr());
  int64_t left = checksums.numel();
  for (const UserWeight& w : user_weights(weights, std::vector<int64_t>(weights.size(), 1))) {
    const WeightValues values(w);
    const int64_t bytes = bytes_of(w.view), pieces = sbk::piece_count(bytes);
    if (pieces > left) return false;
    const int64_t from = pieces * first / kParts, to = (pieces * (first + count) + kParts - 1) / kParts;
    for (int64_t at = from; at < std::clamp(to, from + 1, from + pieces); at++) {
      const int64_t i = at % pieces;
      if (sbk::piece_checksum(values.view.data, bytes, i) != expected[i]) return false;
    }
    expected += pieces, left -= pieces;
  }
  return left == 0;
}

bool packed_is_current(const std::vector<Tensor>& weights, const Tensor& packed) {
  const std::vector<UserWeight> checked = user_weights(weights, std::vector<int64_t>(weights.size(), 1));
  check_packed(packed);
  const char* data = static_cast<const char*>(packed.const_data_ptr());
  const int64_t bytes = packed.numel();
  int64_t offset = 0;
  for (const UserWeight& w : checked) {
    if (bytes - offset < static_cast<int64_t>(sizeof(sbk::PackedHeader))) return false;
    const auto* header = reinterpret_cast<const sbk::PackedHeader*>(data + offset);
    if (header->n != w.view.n || header->k != w.view.k) return false;
    if (header->fingerprint != sbk::fingerprint(WeightValues(w).view)) return false;
    if (header->bytes <= 0 || header->bytes % 64 != 0 || header->bytes > bytes - offset) return false;
    offset += header->bytes;
  }
  return true;
}

std::string isa() { return table().isa; }

std::string available_isas() {
  std::string names;
  for (const sbk::KernelTable* t : sbk::available_tables()) names += (names.empty() ? "" : ",") + std::string(t->isa);
  return names;
}

std::string build_info() { return SBK_BUILD_INFO; }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(squeezebert_kernels, CPU, m) {
  m.impl("grouped_pointwise_conv", TORCH_BOX(&grouped_pointwise_conv));
  m.impl("grouped_pointwise_conv_layer_norm", TORCH_BOX(&grouped_pointwise_conv_layer_norm));
  m.impl("attention_block", TORCH_BOX(&attention_block));
  m.impl("post_attention_block", TORCH_BOX(&post_attention_block));
  m.impl("encoder_layer", TORCH_BOX(&encoder_layer));
  m.impl("pack", TORCH_BOX(&pack));
  m.impl("unpack", TORCH_BOX(&unpack));
  m.impl("packed_is_current", TORCH_BOX(&packed_is_current));
  m.impl("checksums", TORCH_BOX(&checksums));
  m.impl("same_checksums", TORCH_BOX(&same_checksums));
}

STABLE_TORCH_LIBRARY_IMPL(squeezebert_kernels, CompositeExplicitAutograd, m) {
  m.impl("packed_bytes", TORCH_BOX(&packed_bytes));
  m.impl("isa", TORCH_BOX(&isa));
  m.impl("available_isas", TORCH_BOX(&available_isas));
  m.impl("build_info", TORCH_BOX(&build_info));
}
