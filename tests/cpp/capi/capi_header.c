/* The public header, for a C compiler with -std=c99 -pedantic: every type, and a call from C. */
#include "squeezebert_kernels.h"

int main(void) {
  sbk_load_options options = {0};
  sbk_context_options context_options = {0};
  sbk_input input = {.size = sizeof input, .batch = 1};
  sbk_output output = {.size = sizeof output};
  sbk_model_info info = {.size = sizeof info};
  sbk_text text = {.size = sizeof text};
  sbk_tokens tokens = {.size = sizeof tokens};
  sbk_attention attention = {.size = sizeof attention};
  sbk_post_attention block = {.size = sizeof block};
  sbk_model* model = NULL;
  sbk_context* context = NULL;
  (void)options, (void)context_options, (void)info, (void)text, (void)tokens, (void)attention, (void)block;
  if (sbk_model_load("/no/such/file", NULL, &model) != SBK_IO_ERROR || model != NULL) return 1;
  if (sbk_context_create(NULL, &context) != SBK_OK) return 2;
  if (sbk_run(model, context, &input, &output) != SBK_INVALID_ARGUMENT) return 3;
  if (sbk_last_error()[0] == '\0') return 4;
  sbk_context_free(context);
  return 0;
}
