// model/ is the room of models without torch: files, configuration, weights, tokenizer and the forward pass.
//
// This file: a SqueezeBERT or BERT model, its weights by their places in the network, and how they are found.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "include/squeezebert_kernels.h"
#include "model/config.h"
#include "model/tokenizer.h"
#include "model/weights.h"
#include "ops/ops.h"

namespace sbk {

struct EncoderLayer {
  AttentionBlock attention;
  PostAttentionBlock post_attention;
};

// Immutable once it is loaded.
class Model {
 public:
  struct Options {
    sbk_dtype dtype = SBK_DTYPE_DEFAULT;
    sbk_head head = SBK_HEAD_DEFAULT;
    const TierLayout* layout = nullptr;  // of the tier that is to run it
    uint64_t verify_below = 0;           // bytes: smaller .sbk files are verified
  };

  // A .sbk file, or a folder with config.json and model.safetensors. Throws Failure, std::bad_alloc.
  static std::unique_ptr<Model> load(const std::string& path, const Options& options, const Parallel& parallel);

  // As a .sbk file.
  void save(const std::string& path) const;

  ModelConfig config;
  Compute compute = Compute::float32;
  std::string tier;

  Table words, positions, types;
  Norm embedding_norm;
  std::vector<EncoderLayer> layers;
  Conv pooler{};  // weight is null where a member below does not exist
  // Masked language model: logits = decoder . layer_norm(activation(transform(h))) + decoder_bias.
  Conv transform{};
  Norm transform_norm{};
  Table decoder{};
  const float* decoder_bias = nullptr;
  // Every other head: one row of logits for each row of channels.
  Conv classifier{};

  const Tokenizer* tokenizer() const { return tokenizer_ ? &*tokenizer_ : nullptr; }
  const Weights& weights() const { return *weights_; }

 private:
  Model() = default;
  void assemble(Compute compute);
  // Whether the weights of the head that `config` names are there.
  bool has_head() const;
  void assemble_head();
  Conv conv(const std::string& name, const ConvShape& shape, Compute compute);
  Norm norm(const std::string& name, int64_t channels, float eps);
  void open_tokenizer(std::string_view data, const std::string& path);

  std::unique_ptr<Weights> weights_;
  std::string config_text_;
  std::unique_ptr<MappedFile> tokenizer_file_;  // where the tokenizer is a file of its own
  std::string_view tokenizer_data_;
  std::optional<Tokenizer> tokenizer_;
};

// False for what is no dtype to compute in. SBK_DTYPE_DEFAULT is not.
bool to_compute(sbk_dtype dtype, Compute* compute);
sbk_dtype to_dtype(Compute compute);

}  // namespace sbk
