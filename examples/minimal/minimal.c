/* Loads a .sbk file, reads a text, and prints the best label, or the first hidden values of a model without labels.
 *
 *   minimal model.sbk "It rains."
 *
 * CMakeLists.txt beside it shows how to link it. */
#include <squeezebert_kernels.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(sbk_status status) {
  if (status == SBK_OK) return;
  fprintf(stderr, "minimal: %s: %s\n", sbk_status_name(status), sbk_last_error());
  exit(1);
}

int main(int argc, char** argv) {
  printf("squeezebert_kernels %s\n", sbk_version());
  if (argc < 3) return argc == 1 ? 0 : 2;

  sbk_model* model;
  sbk_context* context;
  check(sbk_model_load(argv[1], NULL, &model));
  check(sbk_context_create(NULL, &context));
  sbk_model_info info = {.size = sizeof info};
  check(sbk_model_get_info(model, &info));

  int32_t length, *ids = malloc(sizeof *ids * (size_t)info.max_length);
  sbk_text text = {.size = sizeof text, .text = argv[2], .text_bytes = (int64_t)strlen(argv[2])};
  sbk_tokens tokens = {.size = sizeof tokens, .capacity = info.max_length, .token_ids = ids};
  check(sbk_tokenize(model, &text, &tokens, &length));

  /* A row of logits for the whole text, or hidden states for every token. */
  int has_labels = info.head == SBK_HEAD_SEQUENCE_CLASSIFICATION;
  size_t size = has_labels ? (size_t)info.num_labels : (size_t)length * (size_t)info.hidden_size;
  float* values = malloc(sizeof *values * size);
  sbk_input input = {.size = sizeof input, .batch = 1, .length = length, .token_ids = ids};
  sbk_output output = {.size = sizeof output};
  if (has_labels) {
    output.logits = values, output.logits_size = size;
  } else {
    output.hidden_states = values, output.hidden_states_size = size;
  }
  check(sbk_run(model, context, &input, &output));

  int32_t best = 0;
  for (int32_t i = 1; has_labels && i < info.num_labels; i++) {
    if (values[i] > values[best]) best = i;
  }
  if (has_labels) {
    printf("%s: %f\n", sbk_model_label(model, best), values[best]);
  } else {
    for (int i = 0; i < 4 && i < info.hidden_size; i++) printf("%f\n", values[i]);
  }

  free(values);
  free(ids);
  sbk_context_free(context);
  sbk_model_free(model);
  return 0;
}
