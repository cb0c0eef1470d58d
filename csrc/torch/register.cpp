// The CPU kernels as torch ops, on the LibTorch stable ABI: the only file that includes torch headers. Schemas, shape
// functions and gradients are in squeezebert_kernels/ops.py, which also checks arguments with better messages; the
// checks here keep a direct call through torch.ops from reading out of bounds.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "core/cpu.h"
#include "core/ops.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

const sbk::KernelTable& table() {
  std::string error;
  const sbk::KernelTable* t = sbk::active_table(&error);
  STD_TORCH_CHECK(t != nullptr, error);
  return *t;
}

sbk::Parallel torch_parallel() {
  const auto run = [](void*, int64_t n, sbk::Parallel::Task task, void* arg) {
    torch::stable::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) { task(arg, begin, end); });
  };
  return {run, nullptr, static_cast<int64_t>(torch::stable::get_num_threads())};
}

std::string shape(const Tensor& t) {
  std::string s = "[";
  for (int64_t i = 0; i < t.dim(); i++) s += (i ? ", " : "") + std::to_string(t.size(i));
  return s + "]";
}

// A contiguous fp32 CPU tensor that lives as long as the op runs.
struct Float {
  Tensor tensor;

  Float(const Tensor& t, const char* name) : tensor(t) {
    STD_TORCH_CHECK(t.is_cpu() && t.scalar_type() == ScalarType::Float, name, " must be a float32 CPU tensor");
    if (!t.is_contiguous()) tensor = torch::stable::contiguous(t);
  }
  const float* data() const { return static_cast<const float*>(tensor.const_data_ptr()); }
  int64_t channels() const { return tensor.size(tensor.dim() - 1); }
  int64_t rows() const {
    int64_t n = 1;
    for (int64_t i = 0; i + 1 < tensor.dim(); i++) n *= tensor.size(i);
    return n;
  }
  sbk::Input matrix() const { return {data(), channels()}; }
};

// A per-channel vector: a bias or a LayerNorm's weights.
struct Vector {
  std::optional<Float> values;

  Vector(const OptionalTensor& t, int64_t n, const char* name) {
    if (!t) return;
    values.emplace(*t, name);
    STD_TORCH_CHECK(t->dim() == 1 && t->size(0) == n, name, " must have shape [", n, "], got ", shape(*t));
  }
  const float* data() const { return values ? values->data() : nullptr; }
};

float checked_eps(double eps, const char* name) {
  STD_TORCH_CHECK(eps >= 0 && eps < std::numeric_limits<double>::infinity(), name,
                  " must be finite and not negative, got ", eps);
  return static_cast<float>(eps);
}

Tensor new_output(const Tensor& like, int64_t channels) {
  std::vector<int64_t> sizes(like.sizes().begin(), like.sizes().end());
  sizes.back() = channels;
  return torch::stable::new_empty(like, sizes);
}

float* mutable_floats(Tensor& t) { return static_cast<float*>(t.mutable_data_ptr()); }

// A conv weight of a user, contiguous for as long as the op runs.
struct UserWeight {
  Tensor tensor;
  sbk::Weight view;

  UserWeight(const Tensor& t, int64_t groups) : tensor(t) {
    STD_TORCH_CHECK(t.is_cpu() && t.dim() >= 2 && t.dim() <= 4 && groups > 0 && t.size(0) > 0 && t.size(1) > 0 &&
                        t.size(0) % groups == 0,
                    "weight ", shape(t), " with groups=", groups, " is not a conv weight on CPU");
    for (int64_t i = 2; i < t.dim(); i++) STD_TORCH_CHECK(t.size(i) == 1, "weight ", shape(t), " is not pointwise");
    if (!t.is_contiguous()) tensor = torch::stable::contiguous(t);
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
        STD_TORCH_CHECK(false, "weight must be float32, float16 or bfloat16");
    }
    view = {tensor.const_data_ptr(), type, t.size(0), t.size(1), groups};
  }
};

// Asks for huge pages: streaming the weights of a small batch is bound by TLB misses otherwise (20 against 31 GB/s
// measured).
void advise_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t huge = uintptr_t{2} << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + huge - 1) / huge * huge;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) / huge * huge;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

Tensor pack_weights(const std::vector<UserWeight>& weights, int64_t num_heads,
                    sbk::Compute compute = sbk::Compute::float32) {
  int64_t bytes = 0;
  for (const UserWeight& w : weights) bytes += sbk::packed_bytes(table(), w.view, num_heads, compute);
  Tensor packed = torch::stable::new_empty(weights.front().tensor, {bytes}, ScalarType::Byte);
  char* out = static_cast<char*>(packed.mutable_data_ptr());
  advise_huge_pages(out, bytes);
  for (const UserWeight& w : weights) {
    sbk::pack(table(), w.view, num_heads, out, torch_parallel(), compute);
    out += sbk::packed_bytes(table(), w.view, num_heads, compute);
  }
  return packed;
}

sbk::Compute compute_from(const std::string& dtype) {
  if (dtype == "float32") return sbk::Compute::float32;
  if (dtype == "bfloat16") return sbk::Compute::bfloat16;
  STD_TORCH_CHECK(dtype == "int8", "dtype must be 'float32', 'bfloat16' or 'int8', got '", dtype, "'");
  return sbk::Compute::int8;
}

void check_heads(int64_t num_heads, int64_t channels) {
  STD_TORCH_CHECK(num_heads > 0 && channels % num_heads == 0, "num_heads=", num_heads, " must divide the ", channels,
                  " output channels");
}

// The convs of an op: its weights, packed now unless the caller has done it.
class Convs {
 public:
  Convs(std::vector<UserWeight> weights, const OptionalTensor& packed, int64_t num_heads = 0)
      : weights_(std::move(weights)), packed_(packed ? *packed : pack_weights(weights_, num_heads)) {
    STD_TORCH_CHECK(packed_.is_cpu() && packed_.scalar_type() == ScalarType::Byte && packed_.dim() == 1 &&
                        packed_.is_contiguous() && reinterpret_cast<uintptr_t>(packed_.const_data_ptr()) % 64 == 0,
                    "packed must be a result of ops.pack");
    int64_t offset = 0;
    for (const UserWeight& w : weights_) {
      std::string error;
      sections_.push_back(
          sbk::find_section(table(), w.view, num_heads, packed_.const_data_ptr(), packed_.numel(), &offset, &error));
      STD_TORCH_CHECK(sections_.back() != nullptr, error);
    }
  }
  sbk::Conv with_bias(size_t i, const Vector& bias) const { return {sections_[i], bias.data()}; }
  int64_t in_channels(size_t i) const { return weights_[i].view.k * weights_[i].view.groups; }
  int64_t out_channels(size_t i) const { return weights_[i].view.n; }

 private:
  std::vector<UserWeight> weights_;
  Tensor packed_;
  std::vector<const sbk::PackedHeader*> sections_;
};

void check_channels(const Float& x, int64_t channels, const char* name) {
  STD_TORCH_CHECK(x.tensor.dim() >= 1 && x.channels() == channels, name, " must have ", channels, " channels, got ",
                  shape(x.tensor));
}

void check_same_rows(const Float& x, const Float& y, const char* name) {
  bool same = x.tensor.dim() == y.tensor.dim();
  for (int64_t i = 0; same && i + 1 < x.tensor.dim(); i++) same = x.tensor.size(i) == y.tensor.size(i);
  STD_TORCH_CHECK(same, name, " has shape ", shape(y.tensor), ", which does not fit ", shape(x.tensor));
}

sbk::Activation activation_from(const std::string& name) {
  if (name == "none") return sbk::Activation::none;
  if (name == "gelu") return sbk::Activation::gelu;
  if (name == "gelu_tanh") return sbk::Activation::gelu_tanh;
  STD_TORCH_CHECK(name == "relu", "activation must be 'none', 'gelu', 'gelu_tanh' or 'relu', got '", name, "'");
  return sbk::Activation::relu;
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

Tensor attention_block(const Tensor& x_, const Tensor& q_weight, const OptionalTensor& q_bias_, const Tensor& k_weight,
                       const OptionalTensor& k_bias_, const Tensor& v_weight, const OptionalTensor& v_bias_,
                       const OptionalTensor& mask_, int64_t num_heads, int64_t q_groups, int64_t k_groups,
                       int64_t v_groups, const OptionalTensor& packed, const OptionalTensor& offsets_) {
  const Float x(x_, "x");
  STD_TORCH_CHECK(x_.dim() == (offsets_ ? 2 : 3), "x must be ",
                  offsets_ ? "[tokens, channels] with offsets" : "[batch, sequence, channels]", ", got ", shape(x_));
  std::vector<int64_t> offsets;
  int64_t length = 0;
  if (offsets_) {
    STD_TORCH_CHECK(offsets_->is_cpu() && offsets_->scalar_type() == ScalarType::Long && offsets_->dim() == 1 &&
                        offsets_->size(0) >= 1 && offsets_->is_contiguous(),
                    "offsets must be a contiguous int64 CPU tensor [batch + 1]");
    const auto* data = static_cast<const int64_t*>(offsets_->const_data_ptr());
    offsets.assign(data, data + offsets_->size(0));
    STD_TORCH_CHECK(offsets.front() == 0 && offsets.back() == x_.size(0), "offsets must go from 0 to the ", x_.size(0),
                    " tokens of x, got ", offsets.front(), " to ", offsets.back());
    for (size_t b = 1; b < offsets.size(); b++) {
      STD_TORCH_CHECK(offsets[b] >= offsets[b - 1], "offsets must ascend, got ", offsets[b], " behind ",
                      offsets[b - 1]);
      length = std::max(length, offsets[b] - offsets[b - 1]);
    }
  } else {
    length = x_.size(1);
    for (int64_t b = 0; b <= x_.size(0); b++) offsets.push_back(b * length);
  }
  const int64_t batch = static_cast<int64_t>(offsets.size()) - 1, n = q_weight.size(0);
  check_heads(num_heads, n);
  check_heads(num_heads, k_weight.size(0));
  check_heads(num_heads, v_weight.size(0));
  const Convs convs({UserWeight(q_weight, q_groups), UserWeight(k_weight, k_groups), UserWeight(v_weight, v_groups)},
                    packed, num_heads);
  for (size_t i = 0; i < 3; i++) {
    check_channels(x, convs.in_channels(i), "x");
    STD_TORCH_CHECK(convs.out_channels(i) == n, "q_weight, k_weight and v_weight must have equal output channels");
  }
  const Vector q_bias(q_bias_, n, "q_bias"), k_bias(k_bias_, n, "k_bias"), v_bias(v_bias_, n, "v_bias");

  sbk::AttentionMask mask{nullptr, {0, 0, 0}};
  std::optional<Tensor> mask_tensor;  // keeps a contiguous copy alive
  if (mask_) {
    mask_tensor = *mask_;
    STD_TORCH_CHECK(mask_->is_cpu() && mask_->scalar_type() == ScalarType::Float,
                    "attention_mask must be a float32 CPU tensor");
    const int64_t dims = mask_->dim();
    // With offsets the mask may be that of the padded batch: longer than the longest sequence.
    const int64_t columns = dims >= 1 ? mask_->size(dims - 1) : 0, wanted[4] = {batch, num_heads, columns, columns};
    STD_TORCH_CHECK(dims >= 1 && dims <= 4 && (offsets_ ? columns >= length : columns == length), "attention_mask ",
                    shape(*mask_), " must end in the sequence length ", length);
    if (length > 1 && mask_->stride(dims - 1) != 1) mask_tensor = torch::stable::contiguous(*mask_);
    for (int64_t i = 0; i + 1 < dims; i++) {
      const int64_t size = mask_tensor->size(i), to = 4 - dims + i;
      STD_TORCH_CHECK(size == 1 || size == wanted[to], "attention_mask ", shape(*mask_), " does not broadcast to [",
                      batch, ", ", num_heads, ", ", length, ", ", length, "]");
      mask.stride[to] = size == 1 ? 0 : mask_tensor->stride(i);
    }
    mask.data = static_cast<const float*>(mask_tensor->const_data_ptr());
  }

  Tensor context = new_output(x.tensor, n);
  sbk::attention_block(table(), torch_parallel(),
                       {convs.with_bias(0, q_bias), convs.with_bias(1, k_bias), convs.with_bias(2, v_bias), num_heads},
                       x.matrix(), {batch, offsets.data()}, mask, {mutable_floats(context), n});
  return context;
}

Tensor post_attention_block(const Tensor& context_, const Tensor& residual_, const Tensor& post_weight,
                            const OptionalTensor& post_bias_, const Tensor& post_norm_weight,
                            const Tensor& post_norm_bias, const Tensor& intermediate_weight,
                            const OptionalTensor& intermediate_bias_, const Tensor& output_weight,
                            const OptionalTensor& output_bias_, const Tensor& output_norm_weight,
                            const Tensor& output_norm_bias, int64_t post_groups, int64_t intermediate_groups,
                            int64_t output_groups, const std::string& activation, double post_eps, double output_eps,
                            const OptionalTensor& packed) {
  const Float context(context_, "context"), residual(residual_, "residual");
  const Convs convs({UserWeight(post_weight, post_groups), UserWeight(intermediate_weight, intermediate_groups),
                     UserWeight(output_weight, output_groups)},
                    packed);
  const int64_t n = convs.out_channels(0), hidden = convs.out_channels(1);
  check_channels(context, convs.in_channels(0), "context");
  check_channels(residual, n, "residual");
  check_same_rows(context, residual, "residual");
  STD_TORCH_CHECK(convs.in_channels(1) == n && convs.in_channels(2) == hidden && convs.out_channels(2) == n,
                  "post, intermediate and output weights do not follow one another: ", n, " -> [", convs.in_channels(1),
                  " -> ", hidden, "] -> [", convs.in_channels(2), " -> ", convs.out_channels(2), "]");
  const Vector post_bias(post_bias_, n, "post_bias"), gamma(post_norm_weight, n, "post_norm_weight"),
      beta(post_norm_bias, n, "post_norm_bias"), intermediate_bias(intermediate_bias_, hidden, "intermediate_bias"),
      output_bias(output_bias_, n, "output_bias"), output_gamma(output_norm_weight, n, "output_norm_weight"),
      output_beta(output_norm_bias, n, "output_norm_bias");
  Tensor y = new_output(residual.tensor, n);
  sbk::post_attention_block(table(), torch_parallel(),
                            {convs.with_bias(0, post_bias),
                             convs.with_bias(1, intermediate_bias),
                             convs.with_bias(2, output_bias),
                             {gamma.data(), beta.data(), checked_eps(post_eps, "post_eps")},
                             {output_gamma.data(), output_beta.data(), checked_eps(output_eps, "output_eps")},
                             activation_from(activation)},
                            context.matrix(), residual.matrix(), context.rows(), {mutable_floats(y), n});
  return y;
}

std::vector<UserWeight> user_weights(const std::vector<Tensor>& weights, const std::vector<int64_t>& groups) {
  STD_TORCH_CHECK(!weights.empty() && weights.size() == groups.size(), "pack needs as many groups as weights, got ",
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
  int64_t bytes = 0;
  STD_TORCH_CHECK(n.size() == k.size() && n.size() == groups.size(), "n, k and groups must have equal lengths");
  for (size_t i = 0; i < n.size(); i++) {
    STD_TORCH_CHECK(n[i] > 0 && k[i] > 0 && groups[i] > 0 && n[i] % groups[i] == 0, "not the shape of a conv weight");
    if (num_heads != 0) check_heads(num_heads, n[i]);
    bytes += sbk::packed_bytes(table(), {nullptr, sbk::WeightType::float32, n[i], k[i], groups[i]}, num_heads,
                               compute_from(dtype));
  }
  return bytes;
}

// (values, scale) of one section: float32 [n, k] and nothing, or int8 [n, k] and float32 [n].
std::tuple<Tensor, Tensor> unpack(const Tensor& packed, const std::vector<int64_t>& n, const std::vector<int64_t>& k,
                                  const std::vector<int64_t>& groups, int64_t num_heads, const std::string& dtype,
                                  int64_t section) {
  STD_TORCH_CHECK(
      n.size() == k.size() && n.size() == groups.size() && section >= 0 && section < static_cast<int64_t>(n.size()),
      "unpack needs one n, k and groups for each section, and a section among them");
  STD_TORCH_CHECK(packed.is_cpu() && packed.scalar_type() == ScalarType::Byte && packed.dim() == 1 &&
                      packed.is_contiguous() && reinterpret_cast<uintptr_t>(packed.const_data_ptr()) % 64 == 0,
                  "packed must be a result of ops.pack");
  const sbk::PackedHeader* header = nullptr;
  int64_t offset = 0;
  for (int64_t i = 0; i <= section; i++) {
    STD_TORCH_CHECK(n[i] > 0 && k[i] > 0 && groups[i] > 0 && n[i] % groups[i] == 0, "not the shape of a conv weight");
    if (num_heads != 0) check_heads(num_heads, n[i]);
    std::string error;
    header = sbk::find_section(table(), {nullptr, sbk::WeightType::float32, n[i], k[i], groups[i]}, num_heads,
                               packed.const_data_ptr(), packed.numel(), &offset, &error);
    STD_TORCH_CHECK(header != nullptr, error);
  }
  const sbk::Compute compute = compute_from(dtype);
  STD_TORCH_CHECK(header->is(compute), "packed was not made for dtype='", dtype, "'");
  const bool int8 = compute == sbk::Compute::int8;
  Tensor values =
      torch::stable::new_empty(packed, {n[section], k[section]}, int8 ? ScalarType::Char : ScalarType::Float);
  Tensor scale = torch::stable::new_empty(packed, {int8 ? n[section] : 0}, ScalarType::Float);
  sbk::unpack(*header, values.mutable_data_ptr(), mutable_floats(scale), torch_parallel());
  return {values, scale};
}

bool packed_is_current(const std::vector<Tensor>& weights, const Tensor& packed) {
  const std::vector<UserWeight> checked = user_weights(weights, std::vector<int64_t>(weights.size(), 1));
  STD_TORCH_CHECK(packed.is_cpu() && packed.scalar_type() == ScalarType::Byte && packed.is_contiguous(),
                  "packed must be a result of ops.pack");
  const char* data = static_cast<const char*>(packed.const_data_ptr());
  const int64_t bytes = packed.numel();
  int64_t offset = 0;
  for (const UserWeight& w : checked) {
    if (bytes - offset < static_cast<int64_t>(sizeof(sbk::PackedHeader))) return false;
    const auto* header = reinterpret_cast<const sbk::PackedHeader*>(data + offset);
    if (header->n != w.view.n || header->k != w.view.k || header->fingerprint != sbk::fingerprint(w.view)) return false;
    if (header->bytes <= 0 || header->bytes > bytes - offset) return false;
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
  m.impl("pack", TORCH_BOX(&pack));
  m.impl("unpack", TORCH_BOX(&unpack));
  m.impl("packed_is_current", TORCH_BOX(&packed_is_current));
}

STABLE_TORCH_LIBRARY_IMPL(squeezebert_kernels, CompositeExplicitAutograd, m) {
  m.impl("packed_bytes", TORCH_BOX(&packed_bytes));
  m.impl("isa", TORCH_BOX(&isa));
  m.impl("available_isas", TORCH_BOX(&available_isas));
  m.impl("build_info", TORCH_BOX(&build_info));
}
