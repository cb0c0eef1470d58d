// Convolutions with weights that change with every step: packed on the fly. Internal to training/.
#pragma once
#include "ops/conv.h"
#include "training/trained_blocks.h"

namespace sbk {

// What a convolution that was asked for `wanted` multiplies in on this tier.
Compute training_compute(const KernelTable& table, Compute wanted);

// The operand B of a grouped product, packed as a weight is (ops/packed.h): n columns in all, k steps.
struct Panels {
  PackedHeader* header;

  // In `room`, size(...) floats at a 64-byte boundary.
  Panels(const KernelTable& table, Compute compute, int64_t n, int64_t k, int64_t groups, float* room);
  static int64_t size(const KernelTable& table, Compute compute, int64_t n, int64_t k, int64_t groups);

  Conv conv(const float* bias = nullptr) const { return {header, bias}; }
};

// The panels that compute y = conv(x), or with `is_input_gradient` dx = grad W. `room` is weight_panels_size(...)
// floats at a 64-byte boundary.
int64_t weight_panels_size(const KernelTable& table, Compute compute, const TrainedConv& conv, bool is_input_gradient);
Conv pack_weight(const KernelTable& table, const Parallel& parallel, Compute compute, const TrainedConv& conv,
                 bool is_input_gradient, float* room);

// y = conv(x) + residual, which may be y; no data: none. Scratch: Scope::block, op and task.
void trained_conv(const KernelTable& table, const Parallel& parallel, Compute compute, const TrainedConv& conv, Input x,
                  int64_t rows, Input residual, Output y);

// dx = the gradient of conv's input, from grad of its output, + residual, likewise.
void conv_input_gradient(const KernelTable& table, const Parallel& parallel, Compute compute, const TrainedConv& conv,
                         Input grad, int64_t rows, Input residual, Output dx);

}  // namespace sbk
