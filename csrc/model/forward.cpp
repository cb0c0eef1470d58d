#include "model/forward.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "runtime/workspace.h"

namespace sbk {
namespace {

// Tokens whose logits are computed at a time, and rows of the vocabulary per task.
constexpr int64_t kLogitTokens = 48, kVocabularyTile = 64;
// Tokens per task of the embeddings.
constexpr int64_t kEmbeddingTile = 16;

bool has_token_logits(const Model& model) {
  return model.config.head == SBK_HEAD_MASKED_LM || model.config.head == SBK_HEAD_TOKEN_CLASSIFICATION ||
         model.config.head == SBK_HEAD_QUESTION_ANSWERING;
}

// How long sequence b is without the padding at its end, and whether it has padding elsewhere.
int64_t real_length(const sbk_input& input, int64_t b, bool* has_gaps) {
  if (input.lengths != nullptr) return input.lengths[b];
  if (input.attention_mask == nullptr) return input.length;
  const int32_t* mask = input.attention_mask + b * input.length;
  int64_t length = input.length;
  while (length > 1 && mask[length - 1] == 0) length--;
  if (std::find(mask, mask + length, 0) != mask + length) *has_gaps = true;
  return length;
}

bool is_real(const sbk_input& input, int64_t b, int64_t position) {
  if (input.lengths != nullptr) return position < input.lengths[b];
  return input.attention_mask == nullptr || input.attention_mask[b * input.length + position] != 0;
}

// What a run asks of the model, in numbers.
struct Extent {
  int64_t batch, rows;   // sequences; tokens without the padding at their ends
  int64_t mask_length;   // 0 without a mask
  bool pooled, logits;   // whether they are computed
  int64_t logit_tokens;  // at a time
};

Extent extent_of(const Model& model, const sbk_input& input, const sbk_output& output) {
  Extent e{input.batch, 0, 0, false, false, 0};
  bool has_gaps = false;
  for (int64_t b = 0; b < input.batch; b++) e.rows += real_length(input, b, &has_gaps);
  if (has_gaps) e.mask_length = input.length;
  e.logits = output.logits != nullptr;
  e.pooled = output.pooled != nullptr || (e.logits && !has_token_logits(model));
  if (e.logits && has_token_logits(model)) {
    const int64_t tokens = input.logit_tokens != nullptr ? input.num_logit_tokens : int64_t{input.batch} * input.length;
    e.logit_tokens = std::min(tokens, kLogitTokens);
  }
  return e;
}

// The memory of a run.
struct Activations {
  float* x;                     // [rows][hidden]
  float* mask;                  // [batch][mask_length], added to scores
  int64_t* offsets;             // [batch + 1]
  float *first, *pooled;        // [batch][hidden]
  float *chosen, *transformed;  // [logit_tokens][hidden]
  float* scores;                // [logit_tokens][classes], but for the vocabulary
  void* packed;                 // `transformed`, as the weight of a convolution over the vocabulary

  Activations(const Model& model, const KernelTable& table, const Extent& e, Pieces& pieces) {
    const int64_t hidden = model.config.hidden_size, tokens = e.logit_tokens;
    const int64_t pooled_size = e.pooled ? e.batch * hidden : 0;
    const bool is_vocabulary = model.config.head == SBK_HEAD_MASKED_LM && tokens > 0;
    x = pieces.take(e.rows * hidden);
    mask = pieces.take(e.batch * e.mask_length);
    offsets = pieces.take<int64_t>(e.batch + 1);
    first = pieces.take(pooled_size), pooled = pieces.take(pooled_size);
    chosen = pieces.take(tokens * hidden), transformed = pieces.take(tokens * hidden);
    scores = pieces.take(is_vocabulary ? 0 : tokens * model.config.classes());
    packed =
        pieces.take<char>(is_vocabulary ? packed_bytes(table.layout, token_weight(nullptr, tokens, hidden), 1) : 0);
  }

  static Weight token_weight(const float* tokens, int64_t n, int64_t hidden) {
    return {tokens, WeightType::float32, n, hidden, 1};
  }
};

Activations activations_of(const Model& model, const KernelTable& table, const Extent& e) {
  return Workspace::of<Scope::model>().cut([&](Pieces& pieces) { return Activations(model, table, e, pieces); });
}

// The kernels of a run on `sequences`, in order; everything else that forward() does needs no scratch memory.
void run_layers(const Model& model, const KernelTable& table, const Parallel& parallel, float* x,
                const Sequences& sequences, const AttentionMask& mask, std::size_t layers) {
  const int64_t hidden = model.config.hidden_size;
  for (std::size_t i = 0; i < layers; i++) {
    encoder_layer(table, parallel, model.layers[i].attention, model.layers[i].post_attention, {x, hidden}, sequences,
                  mask, {x, hidden});
  }
}

void run_pooler(const Model& model, const KernelTable& table, const Parallel& parallel, const float* first,
                int64_t batch, float* pooled) {
  const int64_t hidden = model.config.hidden_size;
  grouped_pointwise_conv(table, parallel, model.pooler, {first, hidden}, batch, Activation::none, {pooled, hidden});
}

// rows of channels -> rows of classes
void run_classifier(const Model& model, const KernelTable& table, const Parallel& parallel, const float* x,
                    int64_t rows, float* logits) {
  grouped_pointwise_conv(table, parallel, model.classifier, {x, model.config.hidden_size}, rows, Activation::none,
                         {logits, model.config.classes()});
}

void run_transform(const Model& model, const KernelTable& table, const Parallel& parallel, const float* x, int64_t rows,
                   float* y) {
  const int64_t hidden = model.config.hidden_size;
  grouped_pointwise_conv(table, parallel, model.transform, {x, hidden}, rows, model.config.activation, {y, hidden});
}

// Scratch memory of a task of vocabulary_logits().
struct VocabularyTile {
  float *rows, *y;  // [kVocabularyTile][hidden], [kVocabularyTile][tokens]

  static VocabularyTile of(const Model& model, int64_t tokens) {
    return Workspace::of<Scope::task>().cut([&](Pieces& pieces) {
      return VocabularyTile{.rows = pieces.take(kVocabularyTile * model.config.hidden_size),
                            .y = pieces.take(kVocabularyTile * tokens)};
    });
  }
};

// logits[to[i]][v] = decoder[v] . tokens[i] + decoder_bias[v]. The decoder is the large one and stays as it is: its
// rows are the activations, and the few tokens are packed as the weight.
void vocabulary_logits(const Model& model, const KernelTable& table, const Parallel& parallel, const Activations& a,
                       int64_t tokens, const int64_t* to, float* logits) {
  const int64_t hidden = model.config.hidden_size, vocabulary = model.config.vocab_size;
  pack(table.layout, Activations::token_weight(a.transformed, tokens, hidden), 1, a.packed, parallel);
  const auto& packed = *static_cast<const PackedHeader*>(a.packed);
  parallel_for(parallel, (vocabulary + kVocabularyTile - 1) / kVocabularyTile, [&](int64_t t) {
    const int64_t v = t * kVocabularyTile, rows = std::min(kVocabularyTile, vocabulary - v);
    const VocabularyTile tile = VocabularyTile::of(model, tokens);
    const float* x = static_cast<const float*>(model.decoder.data) + v * hidden;
    if (!model.decoder.is_float32()) {
      for (int64_t r = 0; r < rows; r++) model.decoder.read(v + r, tile.rows + r * hidden);
      x = tile.rows;
    }
    table.conv({.x = x,
                .ldx = hidden,
                .panels = packed.block_values(0),
                .bias = nullptr,
                .residual = nullptr,
                .ldr = 0,
                .y = tile.y,
                .ldy = tokens,
                .rows = rows,
                .k = hidden,
                .n = tokens,
                .activation = Activation::none});
    for (int64_t i = 0; i < tokens; i++) {
      float* out = logits + to[i] * vocabulary + v;
      for (int64_t r = 0; r < rows; r++) out[r] = tile.y[r * tokens + i] + model.decoder_bias[v + r];
    }
  });
}

void embed(const Model& model, const KernelTable& table, const Parallel& parallel, const sbk_input& input,
           const Activations& a) {
  const int64_t hidden = model.config.hidden_size;
  const int64_t tiles = (input.length + kEmbeddingTile - 1) / kEmbeddingTile;
  parallel_for(parallel, input.batch * tiles, [&](int64_t task) {
    const int64_t b = task / tiles, begin = task % tiles * kEmbeddingTile;
    const int64_t end = std::min(begin + kEmbeddingTile, a.offsets[b + 1] - a.offsets[b]);
    if (begin >= end) return;
    float* rows = a.x + (a.offsets[b] + begin) * hidden;
    for (int64_t p = begin; p < end; p++) {
      const int64_t token = b * input.length + p;
      float* row = rows + (p - begin) * hidden;
      model.words.read(input.token_ids[token], row);
      model.positions.add(p, row);
      model.types.add(input.token_type_ids != nullptr ? input.token_type_ids[token] : 0, row);
    }
    const Norm& norm = model.embedding_norm;
    table.layer_norm({.x = rows,
                      .ldx = hidden,
                      .gamma = norm.gamma,
                      .beta = norm.beta,
                      .y = rows,
                      .ldy = hidden,
                      .rows = end - begin,
                      .n = hidden,
                      .eps = norm.eps});
  });
}

void token_logits(const Model& model, const KernelTable& table, const Parallel& parallel, const sbk_input& input,
                  const Activations& a, float* logits) {
  const int64_t hidden = model.config.hidden_size, classes = model.config.classes();
  const int64_t tokens = input.logit_tokens != nullptr ? input.num_logit_tokens : int64_t{input.batch} * input.length;
  for (int64_t begin = 0; begin < tokens; begin += kLogitTokens) {
    int64_t to[kLogitTokens], n = 0;
    for (int64_t i = begin; i < std::min(begin + kLogitTokens, tokens); i++) {
      const int64_t token = input.logit_tokens != nullptr ? input.logit_tokens[i] : i;
      const int64_t b = token / input.length, position = token % input.length;
      if (!is_real(input, b, position)) {
        std::fill_n(logits + i * classes, classes, 0.0f);
        continue;
      }
      std::memcpy(a.chosen + n * hidden, a.x + (a.offsets[b] + position) * hidden, hidden * sizeof(float));
      to[n++] = i;
    }
    if (n == 0) continue;
    if (model.config.head == SBK_HEAD_MASKED_LM) {
      run_transform(model, table, parallel, a.chosen, n, a.transformed);
      const Norm& norm = model.transform_norm;
      table.layer_norm({.x = a.transformed,
                        .ldx = hidden,
                        .gamma = norm.gamma,
                        .beta = norm.beta,
                        .y = a.transformed,
                        .ldy = hidden,
                        .rows = n,
                        .n = hidden,
                        .eps = norm.eps});
      vocabulary_logits(model, table, parallel, a, n, to, logits);
      continue;
    }
    run_classifier(model, table, parallel, a.chosen, n, a.scores);
    for (int64_t i = 0; i < n; i++) std::copy_n(a.scores + i * classes, classes, logits + to[i] * classes);
  }
}

// What forward() cuts from workspaces where no sequence is longer than `longest`.
Demand demand_of(const Model& model, const KernelTable& table, int64_t threads, const Extent& e, int64_t longest) {
  // All tokens as one sequence: what is shared depends on their number alone. Tasks do not: each has one sequence.
  Demand demand = measure(table, threads, [&](const KernelTable& idle, const Parallel& parallel) {
    const Activations a = activations_of(model, idle, e);
    const int64_t offsets[] = {0, e.rows};
    // Layers have equal shapes: one stands for all.
    run_layers(model, idle, parallel, a.x, {1, offsets}, {}, std::min<std::size_t>(model.layers.size(), 1));
  });
  demand.bytes[static_cast<int>(Scope::task)] = 0;
  demand.include(measure(table, threads, [&](const KernelTable& idle, const Parallel& parallel) {
    const Activations a = activations_of(model, idle, e);
    const int64_t hidden = model.config.hidden_size, offsets[] = {0, longest};
    const Output x{a.x, hidden};
    const Input in{a.x, hidden};
    if (!model.layers.empty()) {
      const EncoderLayer& layer = model.layers.front();
      attention_block(idle, parallel, layer.attention, in, {1, offsets}, {}, x);
      post_attention_block(idle, parallel, layer.post_attention, in, in, e.rows, x);
    }
    if (e.pooled) run_pooler(model, idle, parallel, a.first, e.batch, a.pooled);
    if (e.logits && !has_token_logits(model)) run_classifier(model, idle, parallel, a.pooled, e.batch, a.first);
    if (e.logit_tokens > 0 && model.config.head == SBK_HEAD_MASKED_LM) {
      run_transform(model, idle, parallel, a.chosen, e.logit_tokens, a.transformed);
      VocabularyTile::of(model, e.logit_tokens);
    } else if (e.logit_tokens > 0) {
      run_classifier(model, idle, parallel, a.chosen, e.logit_tokens, a.scores);
    }
  }));
  return demand;
}

}  // namespace

Demand forward_demand(const Model& model, const KernelTable& table, int64_t threads, const sbk_input& input,
                      const sbk_output& output) {
  const Extent e = extent_of(model, input, output);
  int64_t longest = 0;
  bool has_gaps = false;
  for (int64_t b = 0; b < input.batch; b++) longest = std::max(longest, real_length(input, b, &has_gaps));
  return demand_of(model, table, threads, e, longest);
}

Demand largest_demand(const Model& model, const KernelTable& table, int64_t threads, int64_t batch, int64_t length) {
  const bool can_pool = model.pooler.weight != nullptr, has_head = model.config.classes() > 0;
  Demand most;
  // Few tokens are shared between threads in other ways than many (ops/ops.cpp): the limits between them.
  for (const int64_t rows : {batch * length, kTokenTile * threads, kFewTokens * threads}) {
    if (rows > batch * length) continue;
    Extent e{batch, rows, length, can_pool, has_head, 0};
    if (has_head && has_token_logits(model)) e.logit_tokens = std::min(batch * length, kLogitTokens);
    most.include(demand_of(model, table, threads, e, std::min(length, rows)));
  }
  return most;
}

void forward(const Model& model, const KernelTable& table, const Parallel& parallel, const sbk_input& input,
             const sbk_output& output) {
  const int64_t hidden = model.config.hidden_size;
  const Extent e = extent_of(model, input, output);
  const Activations a = activations_of(model, table, e);

  bool has_gaps = false;
  a.offsets[0] = 0;
  for (int64_t b = 0; b < input.batch; b++) a.offsets[b + 1] = a.offsets[b] + real_length(input, b, &has_gaps);
  AttentionMask mask{nullptr, {input.length, 0, 0}};
  if (has_gaps) {
    for (int64_t i = 0; i < int64_t{input.batch} * input.length; i++) {
      // As transformers masks: the lowest float, so that a row of nothing else is not NaN.
      a.mask[i] = input.attention_mask[i] != 0 ? 0.0f : std::numeric_limits<float>::lowest();
    }
    mask.data = a.mask;
  }

  embed(model, table, parallel, input, a);
  run_layers(model, table, parallel, a.x, {input.batch, a.offsets}, mask, model.layers.size());

  if (output.hidden_states != nullptr) {
    for (int64_t b = 0; b < input.batch; b++) {
      for (int64_t p = 0; p < input.length; p++) {
        float* out = output.hidden_states + (b * input.length + p) * hidden;
        if (is_real(input, b, p)) {
          std::memcpy(out, a.x + (a.offsets[b] + p) * hidden, hidden * sizeof(float));
        } else {
          std::fill_n(out, hidden, 0.0f);
        }
      }
    }
  }
  if (e.pooled) {
    for (int64_t b = 0; b < input.batch; b++) {
      std::memcpy(a.first + b * hidden, a.x + a.offsets[b] * hidden, hidden * sizeof(float));
    }
    run_pooler(model, table, parallel, a.first, input.batch, a.pooled);
    for (int64_t i = 0; i < input.batch * hidden; i++) a.pooled[i] = std::tanh(a.pooled[i]);
    if (output.pooled != nullptr) std::memcpy(output.pooled, a.pooled, input.batch * hidden * sizeof(float));
  }
  if (e.logits && !has_token_logits(model)) {
    run_classifier(model, table, parallel, a.pooled, input.batch, output.logits);
  } else if (e.logits) {
    token_logits(model, table, parallel, input, a, output.logits);
  }
}

}  // namespace sbk
