#include "model/config.h"

#include <algorithm>

#include "model/failure.h"
#include "model/json.h"
#include "model/limits.h"

namespace sbk {
namespace {

// A configuration while it is read.
struct Reader {
  const Json& json;
  const std::string& path;

  int64_t integer(const char* key, int64_t missing, int64_t high, int64_t low = 1) const {
    const Json* value = json.find(key);
    if (value == nullptr || value->is_null()) return missing;
    int64_t out = 0;
    if (!value->integer(low, high, &out)) {
      fail(SBK_BAD_FILE, path, ": ", key, " must be a whole number from ", low, " to ", high);
    }
    return out;
  }
  float number(const char* key, float missing) const {
    const Json* value = json.find(key);
    if (value == nullptr || value->is_null()) return missing;
    const double* number = value->number();
    if (number == nullptr || !(*number >= 0 && *number < 1))
      fail(SBK_BAD_FILE, path, ": ", key, " must be from 0 to 1");
    return static_cast<float>(*number);
  }
  std::string string(const char* key, const char* missing) const {
    const Json* value = json.find(key);
    if (value == nullptr || value->is_null()) return missing;
    if (value->string() == nullptr) fail(SBK_BAD_FILE, path, ": ", key, " must be a string");
    return *value->string();
  }
};

struct Suffix {
  const char* architecture;
  sbk_head head;
};
constexpr Suffix kHeads[] = {{"ForMaskedLM", SBK_HEAD_MASKED_LM},
                             {"ForSequenceClassification", SBK_HEAD_SEQUENCE_CLASSIFICATION},
                             {"ForMultipleChoice", SBK_HEAD_MULTIPLE_CHOICE},
                             {"ForTokenClassification", SBK_HEAD_TOKEN_CLASSIFICATION},
                             {"ForQuestionAnswering", SBK_HEAD_QUESTION_ANSWERING},
                             {"Model", SBK_HEAD_NONE}};

sbk_head head_of(const Json& json) {
  const Json* architectures = json.find("architectures");
  if (architectures == nullptr || architectures->array() == nullptr || architectures->array()->empty()) {
    return SBK_HEAD_NONE;
  }
  const std::string* name = architectures->array()->front().string();
  for (const Suffix& s : kHeads) {
    if (name != nullptr && name->size() >= std::string_view(s.architecture).size() && name->ends_with(s.architecture)) {
      return s.head;
    }
  }
  return SBK_HEAD_NONE;  // ForPreTraining and others: the encoder can be used
}

Activation activation_of(const Reader& reader) {
  const std::string name = reader.string("hidden_act", "gelu");
  if (name == "gelu") return Activation::gelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast") return Activation::gelu_tanh;
  if (name == "relu") return Activation::relu;
  fail(SBK_UNSUPPORTED, reader.path, ": hidden_act '", name,
       "' is none of gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, relu");
}

// id2label, or LABEL_0, ... as transformers names them.
std::vector<std::string> labels_of(const Reader& reader) {
  const Json* names = reader.json.find("id2label");
  const bool named = names != nullptr && names->object() != nullptr && !names->object()->empty();
  const int64_t count =
      named ? static_cast<int64_t>(names->object()->size()) : reader.integer("num_labels", 2, limits::kLabels);
  if (count > limits::kLabels) {
    fail(SBK_BAD_FILE, reader.path, ": id2label has ", count, " labels, more than ", limits::kLabels);
  }
  std::vector<std::string> labels;
  for (int64_t i = 0; i < count; i++) {
    const std::string number = std::to_string(i);
    const Json* name = named ? names->find(number) : nullptr;
    if (named && (name == nullptr || name->string() == nullptr)) {
      fail(SBK_BAD_FILE, reader.path, ": id2label has no label ", number, " of ", count);
    }
    labels.push_back(named ? *name->string() : "LABEL_" + number);
  }
  return labels;
}

void read_embedding(const Json& json, const std::string& path, ModelConfig* c) {
  c->embedding_pooling = SBK_POOLING_MEAN, c->embedding_max_length = c->max_positions;
  const Json* embedding = json.find("sentence_embedding");
  if (embedding == nullptr || embedding->is_null()) return;
  const std::string where = path + ": sentence_embedding";
  const Reader r{*embedding, where};
  const std::string pooling = r.string("pooling", "mean");
  const Json* normalize = embedding->find("normalize");
  c->embedding_pooling = pooling == "cls" ? SBK_POOLING_CLS : SBK_POOLING_MEAN;
  c->embedding_normalize = normalize != nullptr && normalize->boolean() != nullptr && *normalize->boolean();
  c->embedding_max_length = std::min(r.integer("max_length", c->max_positions, limits::kPositions), c->max_positions);
  c->embedding_unsupported = r.string("unsupported", "");
  if (c->embedding_unsupported.empty() && pooling != "cls" && pooling != "mean") {
    c->embedding_unsupported = "pooling '" + pooling + "' is none of mean, cls";
  }
}

void check_divides(const std::string& path, const char* name, int64_t divisor, const char* of, int64_t number) {
  if (number % divisor != 0) fail(SBK_BAD_FILE, path, ": ", name, "=", divisor, " does not divide ", of, "=", number);
}

// Every size has a limit of its own, so that nothing overflows here.
void check_parameters(const std::string& path, const ModelConfig& c) {
  const int64_t hidden = c.hidden_size, inner = c.intermediate_size;
  const int64_t attention = hidden * (hidden / c.q_groups + hidden / c.k_groups + hidden / c.v_groups);
  const int64_t behind =
      hidden * (hidden / c.post_groups + inner / c.output_groups) + inner * (hidden / c.intermediate_groups);
  const int64_t embeddings = hidden * (c.vocab_size + c.max_positions + c.type_vocab_size + c.classes());
  const int64_t all = embeddings + c.num_layers * (attention + behind);
  if (all > limits::kParameters) {
    fail(SBK_UNSUPPORTED, path, ": a model of ", all, " weights, more than ", limits::kParameters);
  }
}

}  // namespace

int64_t ModelConfig::classes() const {
  switch (head) {
    case SBK_HEAD_MASKED_LM:
      return vocab_size;
    case SBK_HEAD_MULTIPLE_CHOICE:
      return 1;
    case SBK_HEAD_QUESTION_ANSWERING:
      return 2;
    case SBK_HEAD_SEQUENCE_CLASSIFICATION:
    case SBK_HEAD_TOKEN_CLASSIFICATION:
      return static_cast<int64_t>(labels.size());
    default:
      return 0;
  }
}

ModelConfig read_config(std::string_view text, sbk_head head, const std::string& path) {
  const Json json = Json::parse(text, path);
  if (json.object() == nullptr) fail(SBK_BAD_FILE, path, ": not a JSON object");
  const Reader r{json, path};
  ModelConfig c{};
  const std::string type = r.string("model_type", "");
  if (type != "squeezebert" && type != "bert") {
    fail(SBK_UNSUPPORTED, path, ": model_type '", type, "' is none of squeezebert, bert");
  }
  c.family = type == "bert" ? Family::bert : Family::squeezebert;
  const bool grouped = c.family == Family::squeezebert;
  const std::string position = r.string("position_embedding_type", "absolute");
  const Json* decoder = json.find("is_decoder");
  if (position != "absolute") fail(SBK_UNSUPPORTED, path, ": position_embedding_type '", position, "' is not absolute");
  if (decoder != nullptr && decoder->boolean() != nullptr && *decoder->boolean()) {
    fail(SBK_UNSUPPORTED, path, ": decoders (is_decoder) are not implemented");
  }
  c.head = head == SBK_HEAD_DEFAULT ? head_of(json) : head;
  c.vocab_size = r.integer("vocab_size", 30522, limits::kVocabulary);
  c.hidden_size = r.integer("hidden_size", 768, limits::kHidden);
  c.num_layers = r.integer("num_hidden_layers", 12, limits::kLayers, 0);
  c.num_heads = r.integer("num_attention_heads", 12, limits::kHidden);
  c.intermediate_size = r.integer("intermediate_size", 3072, limits::kHidden);
  c.max_positions = r.integer("max_position_embeddings", 512, limits::kPositions);
  c.type_vocab_size = r.integer("type_vocab_size", 2, limits::kTokenTypes);
  const auto groups = [&](const char* key, int64_t missing) {
    return grouped ? r.integer(key, missing, limits::kHidden) : 1;
  };
  c.q_groups = groups("q_groups", 4);
  c.k_groups = groups("k_groups", 4);
  c.v_groups = groups("v_groups", 4);
  c.post_groups = groups("post_attention_groups", 1);
  c.intermediate_groups = groups("intermediate_groups", 4);
  c.output_groups = groups("output_groups", 4);
  c.activation = activation_of(r);
  c.embedding_eps = r.number("layer_norm_eps", 1e-12f);
  c.encoder_eps = grouped ? 1e-12f : c.embedding_eps;  // SqueezeBERT's encoder does not ask its configuration
  const Json* tied = json.find("tie_word_embeddings");
  c.tied_decoder = tied == nullptr || tied->boolean() == nullptr || *tied->boolean();
  c.labels = labels_of(r);
  read_embedding(json, path, &c);

  check_divides(path, "num_attention_heads", c.num_heads, "hidden_size", c.hidden_size);
  check_divides(path, "q_groups", c.q_groups, "hidden_size", c.hidden_size);
  check_divides(path, "k_groups", c.k_groups, "hidden_size", c.hidden_size);
  check_divides(path, "v_groups", c.v_groups, "hidden_size", c.hidden_size);
  check_divides(path, "post_attention_groups", c.post_groups, "hidden_size", c.hidden_size);
  for (const int64_t size : {c.hidden_size, c.intermediate_size}) {
    const char* of = size == c.hidden_size ? "hidden_size" : "intermediate_size";
    check_divides(path, "intermediate_groups", c.intermediate_groups, of, size);
    check_divides(path, "output_groups", c.output_groups, of, size);
  }
  const int64_t embedding_size = r.integer("embedding_size", c.hidden_size, limits::kHidden);
  if (grouped && embedding_size != c.hidden_size) {
    fail(SBK_UNSUPPORTED, path, ": embedding_size=", embedding_size, " differs from hidden_size=", c.hidden_size);
  }
  check_parameters(path, c);
  return c;
}

std::string with_head(std::string_view json, const ModelConfig& config) {
  std::string text(json);
  for (const Suffix& s : kHeads) {
    if (s.head != config.head) continue;
    const char* prefix = config.family == Family::bert ? "Bert" : "SqueezeBert";
    // Of keys that repeat, the last one counts.
    text.insert(text.rfind('}'), std::string(", \"architectures\": [\"") + prefix + s.architecture + "\"]");
  }
  return text;
}

const char* family_name(Family family) { return family == Family::bert ? "bert" : "squeezebert"; }

const char* head_name(sbk_head head) {
  constexpr const char* names[] = {
      "default",           "none", "masked_lm", "sequence_classification", "multiple_choice", "token_classification",
      "question_answering"};
  return head >= 0 && head < 7 ? names[head] : "unknown";
}

}  // namespace sbk
