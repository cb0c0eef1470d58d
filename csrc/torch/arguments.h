// torch/ is the room of the torch ops over ops/ and training/: the only one that includes torch's headers.
//
// This file: the arguments of the ops, checked and kept alive for as long as an op runs. Python says what is wrong with
// an argument in better messages (squeezebert_kernels/ops/validation.py). The checks here keep a direct call through
// torch.ops from reading out of bounds.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "ops/ops.h"
#include "runtime/cpu.h"
#include "runtime/huge_pages.h"
#include "runtime/pool.h"

namespace sbk_torch {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Begins the message of every refusal, an argument of the caller's that does not fit. Python looks for it, and raises a
// ValueError with the rest of the line (squeezebert_kernels/ops/dispatch.py); it passes on other errors as they are.
inline constexpr char kRefusal[] = "squeezebert_kernels refuses: ";

template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  std::ostringstream message;
  message << kRefusal;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

// Refuses the caller's arguments unless `condition` holds. A macro because the parts of the message are often made by
// functions, which must not run where nothing is refused.
#define SBK_CHECK_ARGUMENT(condition, ...) \
  do {                                     \
    if (!(condition)) [[unlikely]] {       \
      ::sbk_torch::refuse(__VA_ARGS__);    \
    }                                      \
  } while (false)

inline const sbk::KernelTable& table() {
  std::string error;
  const sbk::KernelTable* t = sbk::active_table(&error);
  SBK_CHECK_ARGUMENT(t != nullptr, error);
  return *t;
}

// The process that loaded this library.
inline const pid_t loader = getpid();

// torch's threads. In the child of a fork() they would be waited for in vain, where the parent has used them (OpenMP
// does not outlive it): there threads of our own.
inline sbk::Parallel torch_parallel() {
  const auto threads = static_cast<int64_t>(torch::stable::get_num_threads());
  if (getpid() != loader) return sbk::pool_of_this_process(threads);
  const auto run = [](void*, int64_t n, sbk::Parallel::Task task, void* arg) {
    torch::stable::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) { task(arg, begin, end); });
  };
  return {run, nullptr, threads};
}

inline std::string shape(const Tensor& t) {
  std::string s = "[";
  for (int64_t i = 0; i < t.dim(); i++) s += (i ? ", " : "") + std::to_string(t.size(i));
  return s + "]";
}

// A tensor whose memory was given back keeps its shape.
inline void check_memory(const Tensor& t, const char* name) {
  SBK_CHECK_ARGUMENT(t.numel() == 0 || t.const_data_ptr() != nullptr, name, " ", shape(t), " has no memory");
}

// A contiguous fp32 CPU tensor that lives as long as the op runs.
struct Float {
  Tensor tensor;

  Float(const Tensor& t, const char* name) : tensor(t) {
    SBK_CHECK_ARGUMENT(t.is_cpu() && t.scalar_type() == ScalarType::Float, name, " must be a float32 CPU tensor");
    check_memory(t, name);
    if (!t.is_contiguous()) tensor = torch::stable::contiguous(t);
  }
  const float* data() const { return static_cast<const float*>(tensor.const_data_ptr()); }
  int64_t channels() const { return tensor.size(tensor.dim() - 1); }
  int64_t rows() const { return tensor.numel() / channels(); }
  sbk::Input matrix() const { return {data(), channels()}; }
};

// A per-channel vector: a bias or a LayerNorm's weights.
struct Vector {
  std::optional<Float> values;

  Vector(const OptionalTensor& t, int64_t n, const char* name) {
    if (!t) return;
    values.emplace(*t, name);
    SBK_CHECK_ARGUMENT(t->dim() == 1 && t->size(0) == n, name, " must have shape [", n, "], got ", shape(*t));
  }
  const float* data() const { return values ? values->data() : nullptr; }
};

inline float checked_eps(double eps, const char* name) {
  SBK_CHECK_ARGUMENT(eps >= 0 && eps <= std::numeric_limits<float>::max(), name,
                     " must be finite in float32 and not negative, got ", eps);
  const sbk::FloatEnvironment standard;
  sbk::FloatEnvironment::hold(eps);
  auto rounded = static_cast<float>(eps);
  sbk::FloatEnvironment::hold(rounded);
  return rounded;
}

inline Tensor new_output(const Tensor& like, int64_t channels) {
  std::vector<int64_t> sizes(like.sizes().begin(), like.sizes().end());
  sizes.back() = channels;
  return torch::stable::new_empty(like, sizes);
}

inline float* mutable_floats(Tensor& t) { return static_cast<float*>(t.mutable_data_ptr()); }

inline void check_heads(int64_t num_heads, int64_t channels) {
  SBK_CHECK_ARGUMENT(num_heads > 0 && channels % num_heads == 0, "num_heads=", num_heads, " must divide the ", channels,
                     " output channels");
}

// A weight by its shape, without values.
inline sbk::Weight weight_shape(int64_t n, int64_t k, int64_t groups, sbk::WeightType type = sbk::WeightType::float32) {
  SBK_CHECK_ARGUMENT(sbk::is_weight_shape(n, k, groups), "[", n, ", ", k, "] with groups=", groups,
                     " is not the shape of a conv weight of at most ", sbk::kMostWeightValues, " values");
  return {nullptr, type, n, k, groups};
}

// Weights by their shapes, each of which num_heads divides unless it is 0.
inline std::vector<sbk::Weight> weight_shapes(const std::vector<int64_t>& n, const std::vector<int64_t>& k,
                                              const std::vector<int64_t>& groups, int64_t num_heads) {
  SBK_CHECK_ARGUMENT(n.size() == k.size() && n.size() == groups.size(), "n, k and groups must have equal lengths, got ",
                     n.size(), ", ", k.size(), " and ", groups.size());
  std::vector<sbk::Weight> weights;
  for (size_t i = 0; i < n.size(); i++) {
    weights.push_back(weight_shape(n[i], k[i], groups[i]));
    if (num_heads != 0) check_heads(num_heads, n[i]);
  }
  return weights;
}

// Bytes of all sections.
inline int64_t packed_size(const std::vector<sbk::Weight>& weights, int64_t num_heads, sbk::Compute compute) {
  int64_t bytes = 0;
  for (const sbk::Weight& w : weights) {
    SBK_CHECK_ARGUMENT(!__builtin_add_overflow(bytes, sbk::packed_bytes(table(), w, num_heads, compute), &bytes),
                       "the packed weights would take more than 2^63 bytes");
  }
  return bytes;
}

// A conv weight of a user: its shape. Its values are for packing, so an op with packed weights never looks at them.
struct UserWeight {
  Tensor tensor;
  sbk::Weight view;  // data is null

  UserWeight(const Tensor& t, int64_t groups) : tensor(t) {
    SBK_CHECK_ARGUMENT(t.is_cpu() && t.dim() >= 2 && t.dim() <= 4, "weight ", shape(t), " is not a conv weight on CPU");
    for (int64_t i = 2; i < t.dim(); i++) SBK_CHECK_ARGUMENT(t.size(i) == 1, "weight ", shape(t), " is not pointwise");
    sbk::WeightType type = sbk::WeightType::float32;
    switch (t.scalar_type()) {
      case ScalarType::Float:
        break;
      case ScalarType::Half:
        type = sbk::WeightType::float16;
        break;
      case ScalarType::BFloat16:
        type = sbk::WeightType::bfloat16;
        break;
      default:
        SBK_CHECK_ARGUMENT(false, "weight must be float32, float16 or bfloat16");
    }
    view = weight_shape(t.size(0), t.size(1), groups, type);
  }
};

// The weight with its values, contiguous for as long as this lives.
struct WeightValues {
  Tensor tensor;
  sbk::Weight view;

  explicit WeightValues(const UserWeight& w) : tensor(w.tensor), view(w.view) {
    check_memory(tensor, "weight");
    if (!tensor.is_contiguous()) tensor = torch::stable::contiguous(tensor);
    view.data = tensor.const_data_ptr();
  }
};

inline std::vector<sbk::Weight> shapes_of(const std::vector<UserWeight>& weights) {
  std::vector<sbk::Weight> shapes;
  for (const UserWeight& w : weights) shapes.push_back(w.view);
  return shapes;
}

inline Tensor pack_weights(const std::vector<UserWeight>& weights, int64_t num_heads,
                           sbk::Compute compute = sbk::Compute::float32) {
  const int64_t bytes = packed_size(shapes_of(weights), num_heads, compute);
  Tensor packed = torch::stable::new_empty(weights.front().tensor, {bytes}, ScalarType::Byte);
  char* out = static_cast<char*>(packed.mutable_data_ptr());
  sbk::advise_huge_pages(out, bytes);
  for (const UserWeight& w : weights) {
    sbk::pack(table(), WeightValues(w).view, num_heads, out, torch_parallel(), compute);
    out += sbk::packed_bytes(table(), w.view, num_heads, compute);
  }
  return packed;
}

// `prefix` goes before "packed" in the name of the argument.
inline void check_packed(const Tensor& packed, const char* prefix = "") {
  SBK_CHECK_ARGUMENT(packed.is_cpu() && packed.scalar_type() == ScalarType::Byte && packed.dim() == 1 &&
                         packed.is_contiguous() && reinterpret_cast<uintptr_t>(packed.const_data_ptr()) % 64 == 0,
                     prefix, "packed must be a result of ops.pack");
  check_memory(packed, "packed");
}

// The sections of a caller's `prefix`packed.
inline std::vector<const sbk::PackedHeader*> sections_of(const std::vector<sbk::Weight>& weights, int64_t num_heads,
                                                         const Tensor& packed, const char* prefix = "") {
  check_packed(packed, prefix);
  std::string error;
  auto sections = sbk::find_sections(table(), weights, num_heads, packed.const_data_ptr(), packed.numel(), &error);
  SBK_CHECK_ARGUMENT(sections.size() == weights.size(), prefix, error);
  return sections;
}

// The convs of an op: its weights, packed now unless the caller has done it in the argument `prefix`packed.
class Convs {
 public:
  Convs(const std::vector<UserWeight>& weights, const OptionalTensor& packed, int64_t num_heads = 0,
        const char* prefix = "")
      : weights_(shapes_of(weights)),
        packed_(packed ? *packed : pack_weights(weights, num_heads)),
        sections_(sections_of(weights_, num_heads, packed_, prefix)) {}
  sbk::Conv with_bias(size_t i, const Vector& bias) const { return {sections_[i], bias.data()}; }
  int64_t in_channels(size_t i) const { return weights_[i].k * weights_[i].groups; }
  int64_t out_channels(size_t i) const { return weights_[i].n; }

 private:
  std::vector<sbk::Weight> weights_;
  Tensor packed_;
  std::vector<const sbk::PackedHeader*> sections_;
};

inline void check_channels(const Float& x, int64_t channels, const char* name) {
  SBK_CHECK_ARGUMENT(x.tensor.dim() >= 1 && x.channels() == channels, name, " must have ", channels, " channels, got ",
                     shape(x.tensor));
}

inline void check_same_rows(const Float& x, const Float& y, const char* name) {
  bool same = x.tensor.dim() == y.tensor.dim();
  for (int64_t i = 0; same && i + 1 < x.tensor.dim(); i++) same = x.tensor.size(i) == y.tensor.size(i);
  SBK_CHECK_ARGUMENT(same, name, " has shape ", shape(y.tensor), ", which does not fit ", shape(x.tensor));
}

inline sbk::Activation activation_from(const std::string& name) {
  if (name == "none") return sbk::Activation::none;
  if (name == "gelu") return sbk::Activation::gelu;
  if (name == "gelu_tanh") return sbk::Activation::gelu_tanh;
  SBK_CHECK_ARGUMENT(name == "relu", "activation must be 'none', 'gelu', 'gelu_tanh' or 'relu', got '", name, "'");
  return sbk::Activation::relu;
}

// Sequences of equal lengths, x [batch, sequence, channels], or with offsets of any, x [tokens, channels].
struct SequenceArguments {
  int64_t batch, longest = 0;

  SequenceArguments(const Tensor& x, const OptionalTensor& given) {
    SBK_CHECK_ARGUMENT(x.dim() == (given ? 2 : 3), "x must be ",
                       given ? "[tokens, channels] with offsets" : "[batch, sequence, channels]", ", got ", shape(x));
    if (!given) {
      batch = x.size(0), longest = x.size(1);
      for (int64_t b = 1; x.numel() > 0 && b <= batch; b++) offsets_.push_back(b * longest);
      return;
    }
    SBK_CHECK_ARGUMENT(given->is_cpu() && given->scalar_type() == ScalarType::Long && given->dim() == 1 &&
                           given->size(0) >= 1 && given->is_contiguous(),
                       "offsets must be a contiguous int64 CPU tensor [batch + 1]");
    check_memory(*given, "offsets");
    const auto* data = static_cast<const int64_t*>(given->const_data_ptr());
    offsets_.assign(data, data + given->size(0));
    batch = given->size(0) - 1;
    SBK_CHECK_ARGUMENT(offsets_.front() == 0 && offsets_.back() == x.size(0), "offsets must go from 0 to the ",
                       x.size(0), " tokens of x, got ", offsets_.front(), " to ", offsets_.back());
    for (size_t b = 1; b < offsets_.size(); b++) {
      SBK_CHECK_ARGUMENT(offsets_[b] >= offsets_[b - 1], "offsets must ascend, got ", offsets_[b], " behind ",
                         offsets_[b - 1]);
      longest = std::max(longest, offsets_[b] - offsets_[b - 1]);
    }
  }
  sbk::Sequences view() const { return {static_cast<int64_t>(offsets_.size()) - 1, offsets_.data()}; }

 private:
  std::vector<int64_t> offsets_{0};  // of no sequence where none has tokens, however many there are
};

// An additive mask that broadcasts to [batch, num_heads, length, length], or none.
struct MaskArgument {
  OptionalTensor tensor;  // keeps a contiguous copy alive
  sbk::AttentionMask view{nullptr, {0, 0, 0}};

  // With `ragged` sequences the mask may be that of the padded batch: longer than the longest of them.
  MaskArgument(const OptionalTensor& given, int64_t batch, int64_t num_heads, int64_t length, bool ragged)
      : tensor(given) {
    if (!given) return;
    SBK_CHECK_ARGUMENT(given->is_cpu() && given->scalar_type() == ScalarType::Float,
                       "attention_mask must be a float32 CPU tensor");
    check_memory(*given, "attention_mask");
    const int64_t dims = given->dim(), columns = dims >= 1 ? given->size(dims - 1) : 0;
    const int64_t wanted[4] = {batch, num_heads, columns, columns};
    SBK_CHECK_ARGUMENT(dims >= 1 && dims <= 4 && (ragged ? columns >= length : columns == length), "attention_mask ",
                       shape(*given), " must end in the sequence length ", length);
    if (length > 1 && given->stride(dims - 1) != 1) tensor = torch::stable::contiguous(*given);
    for (int64_t i = 0; i + 1 < dims; i++) {
      const int64_t size = tensor->size(i), to = 4 - dims + i;
      SBK_CHECK_ARGUMENT(size == 1 || size == wanted[to], "attention_mask ", shape(*given), " does not broadcast to [",
                         batch, ", ", num_heads, ", ", length, ", ", length, "]");
      view.stride[to] = size == 1 ? 0 : tensor->stride(i);
    }
    view.data = static_cast<const float*>(tensor->const_data_ptr());
  }
};

// (weight, bias, groups) of a conv as an op gets them.
struct ConvArguments {
  const Tensor& weight;
  const OptionalTensor& bias;
  int64_t groups;
};

// What attention_block takes besides x.
struct AttentionArguments {
  Convs convs;
  int64_t channels, num_heads;
  Vector q_bias, k_bias, v_bias;

  AttentionArguments(const ConvArguments& q, const ConvArguments& k, const ConvArguments& v, int64_t heads,
                     const OptionalTensor& packed, const char* prefix = "")
      : convs(checked_weights(q, k, v, heads), packed, heads, prefix),
        channels(convs.out_channels(0)),
        num_heads(heads),
        q_bias(q.bias, channels, "q_bias"),
        k_bias(k.bias, channels, "k_bias"),
        v_bias(v.bias, channels, "v_bias") {}

  void check_input(const Float& x) const {
    for (size_t i = 0; i < 3; i++) check_channels(x, convs.in_channels(i), "x");
  }
  sbk::AttentionBlock block() const {
    return {convs.with_bias(0, q_bias), convs.with_bias(1, k_bias), convs.with_bias(2, v_bias), num_heads};
  }

 private:
  static std::vector<UserWeight> checked_weights(const ConvArguments& q, const ConvArguments& k, const ConvArguments& v,
                                                 int64_t heads) {
    std::vector<UserWeight> weights{{q.weight, q.groups}, {k.weight, k.groups}, {v.weight, v.groups}};
    for (const UserWeight& w : weights) {
      check_heads(heads, w.view.n);
      SBK_CHECK_ARGUMENT(w.view.n == weights[0].view.n,
                         "q_weight, k_weight and v_weight must have equal output channels");
    }
    return weights;
  }
};

// What post_attention_block takes besides the context and the residual.
struct PostAttentionArguments {
  Convs convs;
  int64_t channels, hidden;
  Vector post_bias, post_gamma, post_beta, intermediate_bias, output_bias, output_gamma, output_beta;
  float post_eps, output_eps;
  sbk::Activation activation;

  PostAttentionArguments(const ConvArguments& post, const Tensor& post_norm_weight, const Tensor& post_norm_bias,
                         const ConvArguments& intermediate, const ConvArguments& output,
                         const Tensor& output_norm_weight, const Tensor& output_norm_bias,
                         const std::string& activation_name, double eps_of_post, double eps_of_output,
                         const OptionalTensor& packed, const char* prefix = "")
      : convs({{post.weight, post.groups}, {intermediate.weight, intermediate.groups}, {output.weight, output.groups}},
              packed, 0, prefix),
        channels(convs.out_channels(0)),
        hidden(convs.out_channels(1)),
        post_bias(post.bias, channels, "post_bias"),
        post_gamma(post_norm_weight, channels, "post_norm_weight"),
        post_beta(post_norm_bias, channels, "post_norm_bias"),
        intermediate_bias(intermediate.bias, hidden, "intermediate_bias"),
        output_bias(output.bias, channels, "output_bias"),
        output_gamma(output_norm_weight, channels, "output_norm_weight"),
        output_beta(output_norm_bias, channels, "output_norm_bias"),
        post_eps(checked_eps(eps_of_post, "post_eps")),
        output_eps(checked_eps(eps_of_output, "output_eps")),
        activation(activation_from(activation_name)) {
    SBK_CHECK_ARGUMENT(
        convs.in_channels(1) == channels && convs.in_channels(2) == hidden && convs.out_channels(2) == channels,
        "post, intermediate and output weights do not follow one another: ", channels, " -> [", convs.in_channels(1),
        " -> ", hidden, "] -> [", convs.in_channels(2), " -> ", convs.out_channels(2), "]");
  }
  sbk::PostAttentionBlock block() const {
    return {convs.with_bias(0, post_bias),
            convs.with_bias(1, intermediate_bias),
            convs.with_bias(2, output_bias),
            {post_gamma.data(), post_beta.data(), post_eps},
            {output_gamma.data(), output_beta.data(), output_eps},
            activation};
  }
};

}  // namespace sbk_torch
