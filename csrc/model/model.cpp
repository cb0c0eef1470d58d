#include "model/model.h"

#include <cstring>

#include "isa/layouts.h"
#include "model/container.h"
#include "model/failure.h"
#include "model/limits.h"

namespace sbk {
namespace {

constexpr char kConfig[] = "config.json", kTokenizer[] = "tokenizer.sbk", kCheckpoint[] = "model.safetensors";

// The names of a family's tensors, without the prefix of the base model.
struct Names {
  const char *prefix, *layers;
  const char *query, *key, *value, *post, *post_norm, *intermediate, *output, *output_norm;
};
constexpr Names kSqueezeBert = {
    "transformer.",          "encoder.layers.",          "attention.query",     "attention.key", "attention.value",
    "post_attention.conv1d", "post_attention.layernorm", "intermediate.conv1d", "output.conv1d", "output.layernorm"};
constexpr Names kBert = {"bert.",
                         "encoder.layer.",
                         "attention.self.query",
                         "attention.self.key",
                         "attention.self.value",
                         "attention.output.dense",
                         "attention.output.LayerNorm",
                         "intermediate.dense",
                         "output.dense",
                         "output.LayerNorm"};

const Names& names_of(Family family) { return family == Family::bert ? kBert : kSqueezeBert; }

std::string_view text_section(const std::vector<FileSection>& sections, const char* name) {
  for (const FileSection& s : sections) {
    if (s.name == name && s.kind == SectionKind::text) return {reinterpret_cast<const char*>(s.data), s.bytes};
  }
  return {};
}

void check_size(std::string_view text, uint64_t most, const std::string& path) {
  if (text.size() > most) fail(SBK_BAD_FILE, path, ": ", text.size(), " bytes, more than ", most);
}

// What the encoder of a .sbk file multiplies in.
Compute stored_compute(const std::vector<FileSection>& sections, const std::string& path) {
  for (const FileSection& s : sections) {
    if (s.kind != SectionKind::packed || s.name.find("attention") == std::string::npos) continue;
    PackedHeader header;
    if (s.bytes < sizeof header) break;
    std::memcpy(&header, s.data, sizeof header);
    if (header.compute > static_cast<uint16_t>(Compute::float16))
      fail(SBK_BAD_FILE, path, ": ", s.name, ": unknown dtype");
    return static_cast<Compute>(header.compute);
  }
  return Compute::float32;
}

}  // namespace

bool to_compute(sbk_dtype dtype, Compute* compute) {
  switch (dtype) {
    case SBK_FLOAT32:
      return *compute = Compute::float32, true;
    case SBK_BFLOAT16:
      return *compute = Compute::bfloat16, true;
    case SBK_INT8:
      return *compute = Compute::int8, true;
    case SBK_FLOAT16:
      return *compute = Compute::float16, true;
    default:
      return false;
  }
}

sbk_dtype to_dtype(Compute compute) {
  switch (compute) {
    case Compute::bfloat16:
      return SBK_BFLOAT16;
    case Compute::int8:
      return SBK_INT8;
    case Compute::float16:
      return SBK_FLOAT16;
    default:
      return SBK_FLOAT32;
  }
}

std::unique_ptr<Model> Model::load(const std::string& path, const Options& options, const Parallel& parallel) {
  std::unique_ptr<Model> model(new Model);
  model->tier = options.layout->tier;
  Compute compute = Compute::float32;
  if (options.dtype != SBK_DTYPE_DEFAULT) to_compute(options.dtype, &compute);

  if (is_folder(path)) {
    const std::string config = path + "/" + kConfig, tokenizer = path + "/" + kTokenizer;
    const std::string checkpoint = path + "/" + kCheckpoint;
    const MappedFile config_file(config);
    check_size(config_file.text(), limits::kConfigBytes, config);
    model->config_text_ = config_file.text();
    model->config = read_config(model->config_text_, options.head, config);
    if (!is_file(checkpoint)) {
      fail(SBK_IO_ERROR, "no ", kCheckpoint, " in '", path,
           "': `squeezebert-kernels export` reads every form of checkpoint");
    }
    if (is_file(tokenizer)) {
      model->tokenizer_file_ = std::make_unique<MappedFile>(tokenizer);
      model->open_tokenizer(model->tokenizer_file_->text(), tokenizer);
    }
    model->weights_ = open_checkpoint(checkpoint, names_of(model->config.family).prefix, *options.layout, parallel);
  } else {
    auto file = std::make_unique<MappedFile>(path);
    std::string tier;
    std::vector<FileSection> sections =
        read_container(file->data(), file->size(), path, file->size() < options.verify_below, &tier);
    const TierLayout* stored = layout_named(tier.c_str());
    if (stored == nullptr) fail(SBK_BAD_FILE, path, ": its tier '", tier, "' is unknown to this library");
    const Compute found = stored_compute(sections, path);
    if (options.dtype != SBK_DTYPE_DEFAULT && found != compute) {
      fail(SBK_UNSUPPORTED, path, ": its weights are ", compute_name(found), ", not ", compute_name(compute));
    }
    compute = found;
    const std::string_view config = text_section(sections, kConfig), tokenizer = text_section(sections, kTokenizer);
    if (config.empty()) fail(SBK_BAD_FILE, path, ": the section '", kConfig, "' is missing");
    check_size(config, limits::kConfigBytes, path + ": " + kConfig);
    model->config_text_ = config;
    model->config = read_config(config, options.head, path + ": " + kConfig);
    if (!tokenizer.empty()) model->open_tokenizer(tokenizer, path);
    model->weights_ = open_container(std::move(file), std::move(sections), *stored, *options.layout, path, parallel);
  }
  // Saved, it is a file of what was loaded: other heads' weights are not in it.
  if (options.head != SBK_HEAD_DEFAULT) model->config_text_ = with_head(model->config_text_, model->config);
  if (options.head != SBK_HEAD_DEFAULT && !model->has_head()) {
    fail(SBK_UNSUPPORTED, path, ": it has no weights for the head ", head_name(options.head));
  }
  model->assemble(compute);
  return model;
}

void Model::save(const std::string& path) const {
  std::vector<FileSection> sections;
  const auto add_text = [&](const char* name, const void* data, std::size_t bytes) {
    sections.push_back(
        {name, SectionKind::text, WeightType::float32, 0, 0, static_cast<const std::byte*>(data), bytes});
  };
  add_text(kConfig, config_text_.data(), config_text_.size());
  if (tokenizer_) add_text(kTokenizer, tokenizer_data_.data(), tokenizer_data_.size());
  sections.insert(sections.end(), weights_->sections().begin(), weights_->sections().end());
  write_container(path, tier, sections);
}

void Model::open_tokenizer(std::string_view data, const std::string& path) {
  check_size(data, limits::kTokenizerBytes, path);
  std::string error;
  if (!tokenizer_.emplace().open(data.data(), data.size(), &error)) fail(SBK_BAD_FILE, path, ": tokenizer: ", error);
  if (tokenizer_->size() > config.vocab_size) {
    fail(SBK_BAD_FILE, path, ": the tokenizer has ", tokenizer_->size(), " tokens, the model ", config.vocab_size);
  }
  tokenizer_data_ = data;
}

Conv Model::conv(const std::string& name, const ConvShape& shape, Compute c) {
  Conv conv{};
  conv.weight = weights_->packed(name, shape, c);
  conv.bias = weights_->vector(name + ".bias", shape.n);
  return conv;
}

Norm Model::norm(const std::string& name, int64_t channels, float eps) {
  const float* gamma = weights_->vector(name + ".weight", channels);
  return {gamma, weights_->vector(name + ".bias", channels), eps};
}

void Model::assemble(Compute wanted) {
  compute = wanted;
  const ModelConfig& c = config;
  const int64_t hidden = c.hidden_size, intermediate = c.intermediate_size, heads = c.num_heads;
  words = weights_->table("embeddings.word_embeddings.weight", c.vocab_size, hidden, compute);
  positions = weights_->table("embeddings.position_embeddings.weight", c.max_positions, hidden, compute);
  types = weights_->table("embeddings.token_type_embeddings.weight", c.type_vocab_size, hidden, compute);
  embedding_norm = norm("embeddings.LayerNorm", hidden, c.embedding_eps);

  const Names& names = names_of(c.family);
  for (int64_t i = 0; i < c.num_layers; i++) {
    const std::string layer = names.layers + std::to_string(i) + ".";
    const auto get = [&](const char* name, int64_t n, int64_t k, int64_t groups, int64_t num_heads) {
      return conv(layer + name, {n, k / groups, groups, num_heads}, compute);
    };
    EncoderLayer& l = layers.emplace_back();
    l.attention = {get(names.query, hidden, hidden, c.q_groups, heads),
                   get(names.key, hidden, hidden, c.k_groups, heads),
                   get(names.value, hidden, hidden, c.v_groups, heads), heads};
    l.post_attention.post = get(names.post, hidden, hidden, c.post_groups, 0);
    l.post_attention.post_norm = norm(layer + names.post_norm, hidden, c.encoder_eps);
    l.post_attention.intermediate = get(names.intermediate, intermediate, hidden, c.intermediate_groups, 0);
    l.post_attention.output = get(names.output, hidden, intermediate, c.output_groups, 0);
    l.post_attention.output_norm = norm(layer + names.output_norm, hidden, c.encoder_eps);
    l.post_attention.activation = c.activation;
  }
  if (weights_->has("pooler.dense.weight")) {
    pooler = conv("pooler.dense", {hidden, hidden, 1, 0}, Compute::float32);
  }
  assemble_head();
}

bool Model::has_head() const {
  switch (config.head) {
    case SBK_HEAD_DEFAULT:
    case SBK_HEAD_NONE:
      return true;
    case SBK_HEAD_MASKED_LM:
      return weights_->has("cls.predictions.transform.dense.weight");
    case SBK_HEAD_QUESTION_ANSWERING:
      return weights_->has("qa_outputs.weight");
    default:
      return weights_->has("classifier.weight");
  }
}

void Model::assemble_head() {
  const int64_t hidden = config.hidden_size;
  switch (config.head) {
    case SBK_HEAD_MASKED_LM: {
      const std::string head = "cls.predictions.";
      transform = conv(head + "transform.dense", {hidden, hidden, 1, 0}, Compute::float32);
      transform_norm = norm(head + "transform.LayerNorm", hidden, config.embedding_eps);
      const bool own = !config.tied_decoder && weights_->has(head + "decoder.weight");
      decoder = own ? weights_->table(head + "decoder.weight", config.vocab_size, hidden, compute) : words;
      const bool beside = weights_->has(head + "bias");
      decoder_bias = weights_->vector(head + (beside ? "bias" : "decoder.bias"), config.vocab_size);
      break;
    }
    case SBK_HEAD_QUESTION_ANSWERING:
      classifier = conv("qa_outputs", {2, hidden, 1, 0}, Compute::float32);
      break;
    case SBK_HEAD_SEQUENCE_CLASSIFICATION:
    case SBK_HEAD_MULTIPLE_CHOICE:
      if (pooler.weight == nullptr) {
        fail(SBK_BAD_FILE, "the model has no pooler.dense, which its head ", head_name(config.head), " needs");
      }
      [[fallthrough]];
    case SBK_HEAD_TOKEN_CLASSIFICATION:
      classifier = conv("classifier", {config.classes(), hidden, 1, 0}, Compute::float32);
      break;
    default:
      break;
  }
}

}  // namespace sbk
