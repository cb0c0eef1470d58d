// Models: loading, saving, asking, running.
#include "capi/capi.h"
#include "isa/layouts.h"
#include "model/forward.h"
#include "model/limits.h"

using namespace sbk;
using namespace sbk::capi;

namespace {

Model::Options parse(const sbk_load_options* given) {
  const sbk_load_options options = given != nullptr ? versioned(given, "options") : sbk_load_options{};
  Model::Options parsed;
  require_range(number_of(options.dtype), SBK_DTYPE_DEFAULT, SBK_FLOAT16, "options->dtype");
  require_range(number_of(options.head), SBK_HEAD_DEFAULT, SBK_HEAD_QUESTION_ANSWERING, "options->head");
  parsed.dtype = options.dtype, parsed.head = options.head;
  parsed.verify_below = options.verify > 0 ? UINT64_MAX : options.verify < 0 ? limits::kVerifiedBytes : 0;
  const std::string tier = options.isa != nullptr ? options.isa : active().isa;
  parsed.layout = layout_named(tier.c_str());
  if (parsed.layout == nullptr) {
    std::string known;
    for (const TierLayout& layout : kTierLayouts) known += (known.empty() ? "" : ", ") + std::string(layout.tier);
    fail(SBK_INVALID_ARGUMENT, "options->isa='", tier, "' is none of ", known);
  }
  return parsed;
}

void require_ids(const int32_t* ids, int64_t n, int64_t limit, const char* name, const char* limit_name) {
  for (int64_t i = 0; i < n; i++) {
    if (ids[i] < 0 || ids[i] >= limit) {
      fail(SBK_INVALID_ARGUMENT, name, "[", i, "]=", ids[i], " is not from 0 to ", limit_name, "-1=", limit - 1);
    }
  }
}

void check_input(const Model& model, const sbk_input& input) {
  const ModelConfig& c = model.config;
  require_range(input.batch, 1, 1 << 20, "input->batch");
  require_range(input.length, 1, c.max_positions, "input->length");
  const int64_t tokens = int64_t{input.batch} * input.length;
  require(input.token_ids, "input->token_ids");
  require_ids(input.token_ids, tokens, c.vocab_size, "input->token_ids", "vocab_size");
  if (input.token_type_ids != nullptr) {
    require_ids(input.token_type_ids, tokens, c.type_vocab_size, "input->token_type_ids", "type_vocab_size");
  }
  if (input.lengths != nullptr && input.attention_mask != nullptr) {
    fail(SBK_INVALID_ARGUMENT, "input->lengths and input->attention_mask are both given");
  }
  for (int64_t b = 0; b < input.batch; b++) {
    if (input.lengths != nullptr && (input.lengths[b] < 1 || input.lengths[b] > input.length)) {
      fail(SBK_INVALID_ARGUMENT, "input->lengths[", b, "]=", input.lengths[b],
           " is not from 1 to length=", input.length);
    }
    if (input.attention_mask == nullptr) continue;
    bool any = false;
    for (int64_t i = b * input.length; i < (b + 1) * input.length; i++) {
      const int32_t m = input.attention_mask[i];
      if (m != 0 && m != 1) fail(SBK_INVALID_ARGUMENT, "input->attention_mask[", i, "]=", m, " is neither 0 nor 1");
      any = any || m == 1;
    }
    if (!any) fail(SBK_INVALID_ARGUMENT, "input->attention_mask has no 1 for sequence ", b);
  }
  require_range(input.num_logit_tokens, 0, tokens, "input->num_logit_tokens");
  if (input.logit_tokens == nullptr && input.num_logit_tokens != 0) {
    fail(SBK_INVALID_ARGUMENT, "input->num_logit_tokens=", input.num_logit_tokens, " without input->logit_tokens");
  }
  if (input.logit_tokens != nullptr) {
    require_ids(input.logit_tokens, input.num_logit_tokens, tokens, "input->logit_tokens", "batch*length");
  }
}

bool is_per_sequence(sbk_head head) {
  return head == SBK_HEAD_SEQUENCE_CLASSIFICATION || head == SBK_HEAD_MULTIPLE_CHOICE;
}

void check_output(const Model& model, const sbk_input& input, const sbk_output& output) {
  const ModelConfig& c = model.config;
  const int64_t tokens = int64_t{input.batch} * input.length;
  const auto check = [](const float* data, std::size_t size, int64_t needed, const char* name) {
    if (data != nullptr && size < static_cast<std::size_t>(needed)) {
      fail(SBK_INVALID_ARGUMENT, "output->", name, "_size=", size, " is less than the ", needed, " floats it takes");
    }
  };
  check(output.hidden_states, output.hidden_states_size, tokens * c.hidden_size, "hidden_states");
  check(output.pooled, output.pooled_size, input.batch * c.hidden_size, "pooled");
  if (output.pooled != nullptr && model.pooler.weight == nullptr) {
    fail(SBK_UNSUPPORTED, "output->pooled: the model has no pooler");
  }
  if (output.logits != nullptr && c.head == SBK_HEAD_NONE)
    fail(SBK_UNSUPPORTED, "output->logits: the model has no head");
  const int64_t rows = is_per_sequence(c.head)         ? input.batch
                       : input.logit_tokens != nullptr ? input.num_logit_tokens
                                                       : tokens;
  check(output.logits, output.logits_size, rows * c.classes(), "logits");
}

const KernelTable& table_of(const sbk_model& model) {
  if (model.table == nullptr) {
    fail(SBK_UNSUPPORTED, "the model's weights are packed for ", model.model->tier, ", which this CPU cannot run");
  }
  return *model.table;
}

}  // namespace

sbk_status sbk_model_load(const char* path, const sbk_load_options* options, sbk_model** model) {
  return guarded([&] {
    require(path, "path");
    require(model, "model");
    const Model::Options parsed = parse(options);
    auto loaded = std::make_unique<sbk_model>();
    loaded->model = Model::load(path, parsed, serial());
    loaded->table = find_table(loaded->model->tier);
    *model = loaded.release();
  });
}

void sbk_model_free(sbk_model* model) { delete model; }

sbk_status sbk_model_save(const sbk_model* model, const char* path) {
  return guarded([&] {
    require(path, "path");
    require(model, "model").model->save(path);
  });
}

sbk_status sbk_model_get_info(const sbk_model* handle, sbk_model_info* info) {
  return guarded([&] {
    const Model& model = *require(handle, "model").model;
    const std::size_t size = checked_size(info, "info");
    const ModelConfig& c = model.config;
    sbk_model_info filled{};
    filled.size = size;
    filled.dtype = to_dtype(model.compute), filled.head = c.head;
    filled.isa = model.tier.c_str(), filled.architecture = family_name(c.family);
    filled.vocab_size = static_cast<int32_t>(c.vocab_size), filled.hidden_size = static_cast<int32_t>(c.hidden_size);
    filled.num_layers = static_cast<int32_t>(c.num_layers), filled.num_heads = static_cast<int32_t>(c.num_heads);
    filled.intermediate_size = static_cast<int32_t>(c.intermediate_size);
    filled.max_length = static_cast<int32_t>(c.max_positions), filled.num_labels = static_cast<int32_t>(c.classes());
    filled.has_pooler = model.pooler.weight != nullptr, filled.has_tokenizer = model.tokenizer() != nullptr;
    filled.mapped_bytes = model.weights().mapped_bytes;
    filled.allocated_bytes = model.weights().allocated_bytes;
    filled.repacked_bytes = model.weights().repacked_bytes;
    filled.embedding_pooling = c.embedding_pooling, filled.embedding_normalize = c.embedding_normalize;
    filled.embedding_max_length = static_cast<int32_t>(c.embedding_max_length);
    filled.embedding_unsupported = c.embedding_unsupported.empty() ? nullptr : c.embedding_unsupported.c_str();
    __builtin_memset(info, 0, size);  // members of later versions are unknown here
    __builtin_memcpy(info, &filled, std::min(size, sizeof filled));
  });
}

const char* sbk_model_label(const sbk_model* model, int32_t label) {
  if (model == nullptr || label < 0 || label >= static_cast<int64_t>(model->model->config.labels.size()))
    return nullptr;
  return model->model->config.labels[static_cast<std::size_t>(label)].c_str();
}

sbk_status sbk_run(const sbk_model* handle, sbk_context* context, const sbk_input* input, const sbk_output* output) {
  return guarded([&] {
    const sbk_model& model = require(handle, "model");
    require(context, "context");
    const sbk_input in = versioned(input, "input");
    const sbk_output out = versioned(output, "output");
    const KernelTable& table = table_of(model);
    check_input(*model.model, in);
    check_output(*model.model, in, out);
    const Demand demand = forward_demand(*model.model, table, context->executor->threads(), in, out);
    run_in(context, demand, [&](const Parallel& parallel) { forward(*model.model, table, parallel, in, out); });
  });
}

sbk_status sbk_workspace_bytes(const sbk_model* handle, int32_t batch, int32_t length, int32_t threads,
                               std::size_t* bytes) {
  return guarded([&] {
    const sbk_model& model = require(handle, "model");
    require(bytes, "bytes");
    require_range(batch, 1, 1 << 20, "batch");
    require_range(length, 1, model.model->config.max_positions, "length");
    require_range(threads, 1, 4096, "threads");
    *bytes = largest_demand(*model.model, table_of(model), threads, batch, length).total(threads);
  });
}
