// A model over a batch: embeddings, encoder, heads.
#pragma once
#include "include/squeezebert_kernels.h"
#include "model/model.h"
#include "runtime/executor.h"

namespace sbk {

// Scratch memory of forward() for this input and these outputs on `threads` threads.
Demand forward_demand(const Model& model, const KernelTable& table, int64_t threads, const sbk_input& input,
                      const sbk_output& output);

// The most that forward() needs for any lengths and masks of `batch` sequences of up to `length` tokens, with all
// outputs.
Demand largest_demand(const Model& model, const KernelTable& table, int64_t threads, int64_t batch, int64_t length);

// Arguments are checked by the frontend: sizes, ids, lengths and masks as squeezebert_kernels.h wants them. The layout
// of the model's weights is that of `table`. Memory is the calling threads' workspaces'.
void forward(const Model& model, const KernelTable& table, const Parallel& parallel, const sbk_input& input,
             const sbk_output& output);

}  // namespace sbk
