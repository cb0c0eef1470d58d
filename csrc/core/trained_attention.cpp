#include <cmath>

#include "core/trained_conv.h"

namespace sbk {
namespace {

// Queries at a time: a multiple of every tier's rows of a tile.
constexpr int64_t kQueries = 48;

// One head of one sequence: its q, k and v, and scratch for a block of queries.
struct Head {
  const KernelTable& table;
  const TrainedAttention& attention;
  int64_t b, h, length, d, ld, lds;  // lds: keys rounded up; a cache line more, see score_stride
  float *q, *k, *v;                  // [length][ld]
  float* kt;                         // [d][lds]
  float *scores, *dropped;           // [kQueries][lds]
  float* block;                      // [kQueries][ld]

  Head(const KernelTable& t, const TrainedAttention& a, int64_t task)
      : table(t),
        attention(a),
        b(task % a.batch),
        h(task / a.batch),
        length(a.length),
        d(a.query.n / a.num_heads),
        ld(round_up(d, t.lanes)),
        lds(round_up(length, t.lanes) + 16) {}

  int64_t size() const { return 3 * length * ld + d * lds + 2 * kQueries * lds + kQueries * ld; }
  static constexpr int pieces = 7;

  void take(Workspace& workspace) {
    q = workspace.take(length * ld), k = workspace.take(length * ld), v = workspace.take(length * ld);
    kt = workspace.take(d * lds);
    scores = workspace.take(kQueries * lds);
    dropped = attention.dropout.threshold == 0 ? scores : workspace.take(kQueries * lds);
    block = workspace.take(kQueries * ld);
  }
  // Where this head's columns of a [rows][n] matrix begin.
  int64_t offset() const { return b * length * attention.query.n + h * d; }

  void load(const float* from, float* to) const {
    for (int64_t r = 0; r < length; r++) {
      const float* row = from + offset() + r * attention.query.n;
      std::copy(row, row + d, to + r * ld);
      std::fill(to + r * ld + d, to + (r + 1) * ld, 0.0f);
    }
  }
  void store(const float* from, int64_t first, int64_t rows, float* to) const {
    for (int64_t r = 0; r < rows; r++) {
      std::copy(from + r * ld, from + r * ld + d, to + offset() + (first + r) * attention.query.n);
    }
  }
  void transpose(const float* from, float* to, int64_t rows, int64_t cols, int64_t ldx, int64_t ldy) const {
    table.transpose({.x = from, .ldx = ldx, .y = to, .ldy = ldy, .rows = rows, .cols = cols});
  }
  void multiply(const float* a, int64_t lda, const float* rhs, int64_t ldb, float* c, int64_t ldc, int64_t rows,
                int64_t steps, int64_t columns, bool accumulate = false) const {
    table.training.gemm({a, lda, rhs, ldb, c, ldc, rows, steps, columns, accumulate});
  }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(d)); }

  void load_operands(const AttentionState& state) const {
    load(state.q, q), load(state.k, k), load(state.v, v);
    transpose(k, kt, length, d, ld, lds);
  }
  // The probabilities of queries [first, first + rows) in `scores`, and as dropout leaves them in `dropped`.
  void probabilities(int64_t first, int64_t rows) const {
    multiply(q + first * ld, ld, kt, lds, scores, lds, rows, d, length);
    const int64_t row = (b * attention.num_heads + h) * length + first;
    const AttentionMask& mask = attention.mask;
    table.training.softmax(
        {.scores = scores,
         .lds = lds,
         .mask = mask.data ? mask.data + b * mask.stride[0] + h * mask.stride[1] + first * mask.stride[2] : nullptr,
         .mask_row_stride = mask.stride[2],
         .dropped = dropped,
         .rows = rows,
         .keys = length,
         .first_row = row,
         .scale = scale(),
         .dropout = attention.dropout});
  }
};

// Gradients of q, k and v, each [rows][n].
void core_backward(const KernelTable& table, const Parallel& parallel, const TrainedAttention& attention,
                   const AttentionState& state, const float* grad, float* const (&gradients)[3]) {
  parallel_for(parallel, attention.num_heads * attention.batch, [&](int64_t task) {
    Head head(table, attention, task);
    const int64_t length = head.length, d = head.d, ld = head.ld, lds = head.lds;
    const int64_t ldt = round_up(kQueries, table.lanes) + 16;
    Workspace& workspace = Workspace::of<Scope::task>();
    workspace.reserve(head.size() + 3 * length * ld + d * lds + kQueries * lds + length * ldt, Head::pieces + 6);
    head.take(workspace);
    float *upstream = workspace.take(length * ld), *dk = workspace.take(length * ld), *dv = workspace.take(length * ld);
    float *vt = workspace.take(d * lds), *dscores = workspace.take(kQueries * lds);
    float* transposed = workspace.take(length * ldt);
    head.load_operands(state);
    head.load(grad, upstream);
    head.transpose(head.v, vt, length, d, ld, lds);
    for (int64_t first = 0; first < length; first += kQueries) {
      const int64_t rows = std::min(kQueries, length - first);
      const float* block = upstream + first * ld;
      head.probabilities(first, rows);
      head.transpose(head.dropped, transposed, rows, length, lds, ldt);
      head.multiply(transposed, ldt, block, ld, dv, ld, length, rows, d, first > 0);
      head.multiply(block, ld, vt, lds, dscores, lds, rows, d, length);
      table.training.softmax_backward({.p = head.scores,
                                       .dropped = head.dropped,
                                       .grad = dscores,
                                       .lds = lds,
                                       .rows = rows,
                                       .keys = length,
                                       .scale = head.scale()});
      head.transpose(dscores, transposed, rows, length, lds, ldt);
      head.multiply(transposed, ldt, head.q + first * ld, ld, dk, ld, length, rows, d, first > 0);
      head.multiply(dscores, lds, head.k, ld, head.block, ld, rows, length, d);
      head.store(head.block, first, rows, gradients[0]);
    }
    head.store(dk, 0, length, gradients[1]);
    head.store(dv, 0, length, gradients[2]);
  });
}

}  // namespace

void attention_forward(const KernelTable& table, const Parallel& parallel, Compute compute,
                       const TrainedAttention& attention, Input x, const AttentionState& state, Output context) {
  const int64_t rows = attention.rows(), n = attention.query.n;
  if (rows == 0) return;
  compute = training_compute(table, compute);
  const TrainedConv* convs[3] = {&attention.query, &attention.key, &attention.value};
  float* projected[3] = {state.q, state.k, state.v};
  for (int i = 0; i < 3; i++)
    trained_conv(table, parallel, compute, *convs[i], x, rows, {nullptr, 0}, {projected[i], n});
  parallel_for(parallel, attention.num_heads * attention.batch, [&](int64_t task) {
    Head head(table, attention, task);
    Workspace& workspace = Workspace::of<Scope::task>();
    workspace.reserve(head.size(), Head::pieces);
    head.take(workspace);
    head.load_operands(state);
    for (int64_t first = 0; first < head.length; first += kQueries) {
      const int64_t queries = std::min(kQueries, head.length - first);
      head.probabilities(first, queries);
      head.multiply(head.dropped, head.lds, head.v, head.ld, head.block, head.ld, queries, head.length, head.d);
      head.store(head.block, first, queries, context.data);
    }
  });
}

void attention_backward(const KernelTable& table, const Parallel& parallel, Compute compute,
                        const TrainedAttention& attention, Input x, const AttentionState& state, Input grad,
                        const ConvGradients (&gradients)[3], Output dx) {
  const int64_t rows = attention.rows(), n = attention.query.n;
  compute = training_compute(table, compute);
  Workspace& workspace = Workspace::of<Scope::layer>();
  workspace.reserve(3 * rows * n, 3);
  float* const projected[3] = {workspace.take(rows * n), workspace.take(rows * n), workspace.take(rows * n)};
  if (rows > 0) core_backward(table, parallel, attention, state, grad.data, projected);
  const TrainedConv* convs[3] = {&attention.query, &attention.key, &attention.value};
  ConvBackward backward[3];
  for (int i = 0; i < 3; i++) backward[i] = {*convs[i], {projected[i], n}, gradients[i]};
  conv_backward(table, parallel, compute, backward, 3, x, rows, dx);
}

}  // namespace sbk
