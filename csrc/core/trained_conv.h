// Convolutions with weights that change with every step: packed on the fly. Internal to core/.
#pragma once
#include "core/conv.h"
#include "core/training.h"

namespace sbk {

// What a convolution that was asked for `wanted` multiplies in on this tier.
Compute training_compute(const KernelTable& table, Compute wanted);

// y = conv(x) + residual, which may be y; no data: none. Scratch: Scope::block and Scope::op.
void trained_conv(const KernelTable& table, const Parallel& parallel, Compute compute, const TrainedConv& conv, Input x,
                  int64_t rows, Input residual, Output y);

// dx = the gradient of conv's input, from grad of its output, + residual, likewise.
void conv_input_gradient(const KernelTable& table, const Parallel& parallel, Compute compute, const TrainedConv& conv,
                         Input grad, int64_t rows, Input residual, Output dx);

// y = dropout(x) + residual. y may be x or the residual.
void shared_dropout(const KernelTable& table, const Parallel& parallel, const Dropout& dropout, Input x, Input residual,
                    int64_t rows, int64_t n, Output y);

}  // namespace sbk
