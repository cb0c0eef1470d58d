// sbk_evaluate MODEL IN OUT: a model over token ids, for tests of builds that Python cannot load (another CPU's).
//
// IN: int32 batch, length, then token_ids, token_type_ids, attention_mask, each [batch][length]. OUT: float32
// hidden_states, then pooled and logits, as far as the model has them. Prints the tier and how many bytes were
// repacked.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "include/squeezebert_kernels.h"

namespace {

void require(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "sbk_evaluate: %s: %s\n", what, sbk_last_error());
  std::exit(1);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return std::fprintf(stderr, "usage: sbk_evaluate MODEL IN OUT\n"), 2;
  std::FILE* in = std::fopen(argv[2], "rb");
  int32_t shape[2];
  require(in != nullptr && std::fread(shape, sizeof shape, 1, in) == 1, argv[2]);
  const std::size_t batch = static_cast<std::size_t>(shape[0]), tokens = batch * static_cast<std::size_t>(shape[1]);
  std::vector<int32_t> values(3 * tokens);
  require(std::fread(values.data(), sizeof(int32_t), values.size(), in) == values.size(), argv[2]);
  std::fclose(in);

  sbk_model* model = nullptr;
  sbk_context* context = nullptr;
  sbk_model_info info{};
  info.size = sizeof info;
  sbk_load_options options{};
  options.size = sizeof options, options.verify = 1;
  require(sbk_model_load(argv[1], &options, &model) == SBK_OK, argv[1]);
  require(sbk_model_get_info(model, &info) == SBK_OK, "info");
  require(sbk_context_create(nullptr, &context) == SBK_OK, "context");

  const auto hidden = static_cast<std::size_t>(info.hidden_size), labels = static_cast<std::size_t>(info.num_labels);
  const bool per_sequence = info.head == SBK_HEAD_SEQUENCE_CLASSIFICATION || info.head == SBK_HEAD_MULTIPLE_CHOICE;
  std::vector<float> states(tokens * hidden), pooled(info.has_pooler ? batch * hidden : 0);
  std::vector<float> logits((per_sequence ? batch : tokens) * labels);
  sbk_input input{};
  input.size = sizeof input, input.batch = shape[0], input.length = shape[1];
  input.token_ids = values.data(), input.token_type_ids = values.data() + tokens;
  input.attention_mask = values.data() + 2 * tokens;
  sbk_output output{};
  output.size = sizeof output;
  output.hidden_states = states.data(), output.hidden_states_size = states.size();
  if (!pooled.empty()) output.pooled = pooled.data(), output.pooled_size = pooled.size();
  if (!logits.empty()) output.logits = logits.data(), output.logits_size = logits.size();
  require(sbk_run(model, context, &input, &output) == SBK_OK, "run");

  std::FILE* out = std::fopen(argv[3], "wb");
  require(out != nullptr, argv[3]);
  for (const std::vector<float>* v : {&states, &pooled, &logits}) {
    require(std::fwrite(v->data(), sizeof(float), v->size(), out) == v->size(), argv[3]);
  }
  std::fclose(out);
  std::printf("%s %lld\n", info.isa, static_cast<long long>(info.repacked_bytes));
  sbk_context_free(context);
  sbk_model_free(model);
  return 0;
}
