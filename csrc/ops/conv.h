// Convolutions and LayerNorm over whole tensors or blocks of them, which the ops are made of. Internal to ops/ and
// training/.
#pragma once
#include <algorithm>
#include <cstdint>

#include "ops/ops.h"
#include "runtime/cpu.h"
#include "runtime/workspace.h"

namespace sbk {

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
constexpr int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

// Floats, or units, between rows of n of scratch that kernels read in vectors of `lanes`.
constexpr int64_t padded_stride(int64_t n, int64_t lanes) { return round_up(n, lanes) + kRowGap; }

// Rows per task: at most kTokenTile, whole register tiles, and as many tasks as threads can share evenly.
int64_t token_tile(const KernelTable& table, int64_t rows, int64_t threads, int64_t tasks_per_tile = 1);

// Activations as the convs of an op read them: the floats themselves, or encoded in units (kernels/table.h).
struct Operand {
  const char* data;
  int64_t stride;  // units between rows
  int64_t unit_bytes;
  const RowQuantization* quantization;  // int8: [groups][quantization_stride]
  int64_t quantization_stride;          // rows
  int64_t group_units;                  // units of a group's slice of a row

  Operand from(int64_t row) const {
    Operand rest = *this;
    rest.data += row * stride * unit_bytes;
    if (quantization) rest.quantization += row;
    return rest;
  }
};

inline const LowPrecision* low_precision(const KernelTable& table, const PackedHeader& w) {
  return low_precision(table, static_cast<Compute>(w.compute));
}

// Floats that `units` units take.
constexpr int64_t floats_of(int64_t units, int64_t unit_bytes) { return divide_up(units * unit_bytes, sizeof(float)); }

// Scratch for encoding `rows` rows; all of it unused in fp32.
struct Encoder {
  const LowPrecision* kernels;
  int64_t group_units, unit_bytes, k, groups;
  char* units;
  RowQuantization* quantization;
  int64_t rows;

  Encoder(const KernelTable& table, const PackedHeader& w, int64_t max_rows, Pieces& pieces)
      : kernels(low_precision(table, w)),
        group_units(w.units()),
        unit_bytes(w.unit_bytes),
        k(w.k),
        groups(w.groups),
        units(pieces.take<char>(w.is(Compute::float32) ? 0 : max_rows * groups * group_units * unit_bytes)),
        quantization(pieces.take<RowQuantization>(w.is(Compute::int8) ? max_rows * groups : 0)),
        rows(max_rows) {}

  // Rows [first, last) of x, groups [0, groups) of this conv.
  void encode(Input x, int64_t first, int64_t last) const {
    if (kernels == nullptr) return;
    for (int64_t g = 0; g < groups; g++) {
      kernels->encode({.x = x.row(first) + g * k,
                       .ldx = x.stride,
                       .y = units + (first * groups + g) * group_units * unit_bytes,
                       .ldy = groups * group_units,
                       .quantization = quantization + g * rows + first,
                       .rows = last - first,
                       .k = k});
    }
  }
  Operand operand(Input x) const {
    if (kernels == nullptr) {
      return {reinterpret_cast<const char*>(x.data), x.stride, unit_bytes, nullptr, 0, group_units};
    }
    return {units, groups * group_units, unit_bytes, quantization, rows, group_units};
  }
};

// Blocks [first_block, last_block) of a conv over `rows` rows; y and residual start at the first of these blocks'
// columns, x at group `first_group`.
void conv_blocks(const KernelTable& table, const Conv& conv, int64_t first_block, int64_t last_block, const Operand& x,
                 int64_t rows, Activation activation, Input residual, Output y, int64_t first_group = 0);

inline int64_t blocks(const Conv& conv) { return conv.weight->n / conv.weight->block; }

void layer_norm(const KernelTable& table, const Norm& norm, Input x, int64_t rows, int64_t n, Output y);

void conv_layer_norm(const KernelTable& table, const Conv& conv, const Norm& norm, const Operand& x, Input residual,
                     int64_t rows, Output y);

// The whole conv, shared between threads by blocks of columns and tiles of rows. The residual, which may be y, has no
// data where there is none. Scratch: Scope::op.
void shared_conv(const KernelTable& table, const Parallel& parallel, const Conv& conv, Input x, int64_t rows,
                 Activation activation, Input residual, Output y);

void shared_layer_norm(const KernelTable& table, const Parallel& parallel, const Norm& norm, Input x, int64_t rows,
                       int64_t n, Output y);

}  // namespace sbk
