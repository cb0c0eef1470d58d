// What config.json says of a model, as far as running it needs: SqueezeBERT's and BERT's fields, their defaults, and
// the checks of squeezebert_kernels/models/configuration.py.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "include/squeezebert_kernels.h"
#include "kernels/table.h"

namespace sbk {

enum class Family { squeezebert, bert };

struct ModelConfig {
  Family family;
  sbk_head head;
  int64_t vocab_size, hidden_size, num_layers, num_heads, intermediate_size, max_positions, type_vocab_size;
  int64_t q_groups, k_groups, v_groups, post_groups, intermediate_groups, output_groups;
  Activation activation;
  float embedding_eps, encoder_eps;  // of LayerNorm
  bool tied_decoder;                 // masked language models: its weight is the word embedding
  std::vector<std::string> labels;   // by number
  // How one vector is made of hidden states: what squeezebert_kernels/export writes as "sentence_embedding".
  sbk_pooling embedding_pooling;
  bool embedding_normalize;
  int64_t embedding_max_length;
  std::string embedding_unsupported;  // why not; empty: it can be done

  // Rows of the classifier: labels, or what the head always has.
  int64_t classes() const;
};

// Throws Failure: SBK_BAD_FILE for what is no configuration of a model, SBK_UNSUPPORTED for models that are not
// implemented; messages begin with `path`. `head`: SBK_HEAD_DEFAULT takes that of "architectures".
ModelConfig read_config(std::string_view json, sbk_head head, const std::string& path);

// The same configuration with the head of `config`, which "architectures" then names.
std::string with_head(std::string_view json, const ModelConfig& config);

const char* family_name(Family family);
const char* head_name(sbk_head head);

}  // namespace sbk
