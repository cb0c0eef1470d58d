#include "training/trained_conv.h"

#include <cstring>

#include "kernels/panels.h"

namespace sbk {
namespace {

// Tokens that one sum of a weight gradient runs over: sums of such sums round less than one long sum would. Products of
// bf16 have lost more than that before they are summed.
int64_t token_chunk(Compute compute) { return compute == Compute::float32 ? 256 : 1024; }

// Rows of a weight's gradient per task: their gradients, transposed, stay in L2.
constexpr int64_t kGradientRows = 64;

// Lanes of the widest vector of any tier: chunks of tokens are whole vectors everywhere, and so the same.
constexpr int64_t kMostLanes = 16;

// A task's share of tokens where a row is the work of a few microseconds.
constexpr int64_t kRowTile = 32;

int64_t section_floats(const PackedHeader& h) { return divide_up(h.bytes, sizeof(float)); }

// A panel that is to be written, `width` units wide, for columns [first, last) of B.
struct PanelToFill {
  char* units;
  int64_t width, first, last, group;
};

template <class F>
void for_each_panel(const Parallel& parallel, const PackedHeader& h, F fill) {
  const int64_t vectors = h.padded_block() / h.lanes, panels = panel_count(vectors, h.tile_vectors);
  parallel_for(parallel, h.n / h.block * panels, [&](int64_t task) {
    const int64_t b = task / panels;
    const auto p = panel_at(vectors, h.tile_vectors, task % panels);
    const int64_t first = p.first * h.lanes, width = static_cast<int64_t>(p.width) * h.lanes;
    char* block = const_cast<char*>(static_cast<const char*>(h.block_values(b)));
    fill(PanelToFill{block + first * h.units() * h.unit_bytes, width, b * h.block + first,
                     b * h.block + std::min(first + width, h.block), b * h.block / h.group_columns()});
  });
}

// B[step][column] = rows.row(step)[column]: rows hold the columns of all groups side by side, or, `by_group`, those of
// one group, the steps of group g being rows [g * k, (g + 1) * k).
void pack_rows(const KernelTable& table, const Parallel& parallel, const Panels& panels, Input rows, bool by_group) {
  const PackedHeader& h = *panels.header;
  for_each_panel(parallel, h, [&](const PanelToFill& p) {
    const int64_t columns = p.last - p.first;
    const float* x = by_group ? rows.row(p.group * h.k) + (p.first - p.group * h.group_columns()) : rows.data + p.first;
    if (h.is(Compute::bfloat16)) {
      table.low_attention.stack_rows(
          {.x = x, .ldx = rows.stride, .y = p.units, .ldy = p.width, .rows = h.k, .cols = columns});
      return;
    }
    auto* y = reinterpret_cast<float*>(p.units);
    for (int64_t step = 0; step < h.k; step++, x += rows.stride, y += p.width) {
      std::memcpy(y, x, static_cast<size_t>(columns) * sizeof(float));
      std::memset(y + columns, 0, static_cast<size_t>(p.width - columns) * sizeof(float));
    }
  });
}

// B[step][column] = weight[column][step].
void pack_transposed(const KernelTable& table, const Parallel& parallel, const Panels& panels, const float* weight) {
  const PackedHeader& h = *panels.header;
  for_each_panel(parallel, h, [&](const PanelToFill& p) {
    Input units{weight + p.first * h.k, h.k};
    if (h.is(Compute::bfloat16)) {
      float* encoded = Workspace::of<Scope::task>().cut_one(p.width * h.units());
      table.bfloat16.encode({.x = units.data,
                             .ldx = h.k,
                             .y = encoded,
                             .ldy = h.units(),
                             .quantization = nullptr,
                             .rows = p.last - p.first,
                             .k = h.k});
      units = {encoded, h.units()};
    }
    table.transpose({.x = units.data,
                     .ldx = units.stride,
                     .y = reinterpret_cast<float*>(p.units),
                     .ldy = p.width,
                     .rows = p.last - p.first,
                     .cols = h.units()});
  });
}

// dw += grad^T x over a chunk of tokens, x being packed in `panels`; db likewise.
void add_weight_gradient(const KernelTable& table, const Parallel& parallel, const Panels& panels,
                         const ConvBackward& backward, Input grad, int64_t tokens, bool is_first) {
  const TrainedConv& conv = backward.conv;
  const ConvGradients& out = backward.gradients;
  const PackedHeader& x = *panels.header;
  const int64_t rows_of_group = conv.n / conv.groups, blocks_of_group = conv.k / x.block;
  const int64_t tasks_of_group = divide_up(rows_of_group, kGradientRows);
  const int64_t lda = padded_stride(tokens, kMostLanes);
  parallel_for(parallel, conv.groups * tasks_of_group, [&](int64_t task) {
    const int64_t group = task / tasks_of_group, first = task % tasks_of_group * kGradientRows;
    const int64_t row = group * rows_of_group + first, rows = std::min(kGradientRows, rows_of_group - first);
    float* a = Workspace::of<Scope::task>().cut_one(kGradientRows * lda);
    table.transpose({.x = grad.data + row, .ldx = grad.stride, .y = a, .ldy = lda, .rows = tokens, .cols = rows});
    if (out.bias) {
      table.training.sum_rows(
          {.x = a, .ldx = lda, .y = out.bias + row, .rows = rows, .n = tokens, .accumulate = !is_first});
    }
    if (!out.weight) return;
    if (x.is(Compute::bfloat16)) {
      table.bfloat16.encode(
          {.x = a, .ldx = lda, .y = a, .ldy = lda, .quantization = nullptr, .rows = rows, .k = tokens});
    }
    const Output dw{out.weight + row * conv.k, conv.k};
    const Operand operand{reinterpret_cast<const char*>(a), lda, sizeof(float), nullptr, 0, 0};
    conv_blocks(table, panels.conv(), group * blocks_of_group, (group + 1) * blocks_of_group, operand, rows,
                Activation::none, {is_first ? nullptr : dw.data, dw.stride}, dw, group);
  });
}

}  // namespace

Compute training_compute(const KernelTable& table, Compute wanted) {
  return wanted == Compute::bfloat16 && table.training.gemm_bfloat16 ? Compute::bfloat16 : Compute::float32;
}

Panels::Panels(const KernelTable& table, Compute compute, int64_t n, int64_t k, int64_t groups, float* room) {
  const PackedHeader h = section_header(table.layout, {nullptr, WeightType::float32, n, k, groups}, 0, compute);
  header = reinterpret_cast<PackedHeader*>(room);
  *header = h;
}

int64_t Panels::size(const KernelTable& table, Compute compute, int64_t n, int64_t k, int64_t groups) {
  return section_floats(section_header(table.layout, {nullptr, WeightType::float32, n, k, groups}, 0, compute));
}

int64_t weight_panels_size(const KernelTable& table, Compute compute, const TrainedConv& conv, bool is_input_gradient) {
  return is_input_gradient ? Panels::size(table, compute, conv.in_channels(), conv.n / conv.groups, conv.groups)
                           : Panels::size(table, compute, conv.n, conv.k, conv.groups);
}

Conv pack_weight(const KernelTable& table, const Parallel& parallel, Compute compute, const TrainedConv& conv,
                 bool is_input_gradient, float* room) {
  if (is_input_gradient) {
    const Panels panels(table, compute, conv.in_channels(), conv.n / conv.groups, conv.groups, room);
    pack_rows(table, parallel, panels, {conv.weight, conv.k}, true);
    return panels.conv();
  }
  const Panels panels(table, compute, conv.n, conv.k, conv.groups, room);
  pack_transposed(table, parallel, panels, conv.weight);
  return panels.conv(conv.bias);
}

void trained_conv(const KernelTable& table, const Parallel& parallel, Compute compute, const TrainedConv& conv, Input x,
                  int64_t rows, Input residual, Output y) {
  float* room = Workspace::of<Scope::block>().cut_one(weight_panels_size(table, compute, conv, false));
  const Conv packed = pack_weight(table, parallel, compute, conv, false, room);
  shared_conv(table, parallel, packed, x, rows, Activation::none, residual, y);
}

void conv_input_gradient(const KernelTable& table, const Parallel& parallel, Compute compute, const TrainedConv& conv,
                         Input grad, int64_t rows, Input residual, Output dx) {
  float* room = Workspace::of<Scope::block>().cut_one(weight_panels_size(table, compute, conv, true));
  const Conv packed = pack_weight(table, parallel, compute, conv, true, room);
  shared_conv(table, parallel, packed, grad, rows, Activation::none, residual, dx);
}

void conv_backward(const KernelTable& table, const Parallel& parallel, Compute compute, const ConvBackward* convs,
                   int64_t count, Input x, int64_t rows, Output dx) {
  for (int64_t i = 0; dx.data && i < count; i++) {
    conv_input_gradient(table, parallel, compute, convs[i].conv, convs[i].grad, rows,
                        {i == 0 ? nullptr : dx.data, dx.stride}, dx);
  }
  if (rows == 0) {
    for (int64_t i = 0; i < count; i++) {
      const ConvBackward& backward = convs[i];
      if (backward.gradients.weight) std::fill_n(backward.gradients.weight, backward.conv.n * backward.conv.k, 0.0f);
      if (backward.gradients.bias) std::fill_n(backward.gradients.bias, backward.conv.n, 0.0f);
    }
    return;
  }
  const int64_t chunks = divide_up(rows, token_chunk(compute));
  const int64_t chunk = round_up(divide_up(rows, chunks), kMostLanes);
  const auto is_wanted = [&](int64_t i) { return convs[i].gradients.weight || convs[i].gradients.bias; };
  // Convs with equal groups read the same panels of x: those of the first of them.
  const auto first_like = [&](int64_t i) {
    int64_t j = 0;
    while (!is_wanted(j) || convs[j].conv.groups != convs[i].conv.groups) j++;
    return j;
  };
  for (int64_t token = 0; token < rows; token += chunk) {
    const int64_t tokens = std::min(chunk, rows - token);
    for (int64_t i = 0; i < count; i++) {
      if (!is_wanted(i) || first_like(i) != i) continue;
      const int64_t channels = convs[i].conv.in_channels(), groups = convs[i].conv.groups;
      float* room = Workspace::of<Scope::block>().cut_one(Panels::size(table, compute, channels, tokens, groups));
      const Panels panels(table, compute, channels, tokens, groups, room);
      pack_rows(table, parallel, panels, {x.row(token), x.stride}, false);
      for (int64_t j = i; j < count; j++) {
        if (!is_wanted(j) || first_like(j) != i) continue;
        const Input grad{convs[j].grad.row(token), convs[j].grad.stride};
        add_weight_gradient(table, parallel, panels, convs[j], grad, tokens, token == 0);
      }
    }
  }
}

Dropout dropout_of(uint64_t seed, DropoutSite site, double p) {
  const FloatEnvironment standard;
  FloatEnvironment::hold(p);
  constexpr double two_to_32 = 4294967296.0;
  auto threshold = static_cast<uint32_t>(std::min(p * two_to_32 + 0.5, two_to_32 - 1.0));
  FloatEnvironment::hold(threshold);
  auto factor = p < 1.0 ? static_cast<float>(1.0 / (1.0 - p)) : 0.0f;
  FloatEnvironment::hold(factor);
  return {seed, static_cast<uint32_t>(site), threshold, factor};
}

void dropout_factors(const KernelTable& table, const Parallel& parallel, const Dropout& dropout, int64_t rows,
                     int64_t columns, float* factors) {
  if (columns == 0) return;
  std::fill(factors, factors + rows * columns, 1.0f);
  parallel_for(parallel, divide_up(rows, kRowTile), [&](int64_t task) {
    const int64_t row = task * kRowTile;
    float* at = factors + row * columns;
    table.training.dropout({.x = at,
                            .ldx = columns,
                            .residual = nullptr,
                            .ldr = 0,
                            .y = at,
                            .ldy = columns,
                            .rows = std::min(kRowTile, rows - row),
                            .n = columns,
                            .first_row = row,
                            .dropout = dropout});
  });
}

}  // namespace sbk
