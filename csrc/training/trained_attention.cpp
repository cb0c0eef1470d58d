#include <cmath>

#include "training/trained_conv.h"

namespace sbk {
namespace {

// Queries at a time: few enough for their scores over all keys to stay in L2.
constexpr int64_t kQueries = 64;

// One head of one sequence, and scratch for a block of queries.
struct Head {
  const KernelTable& table;
  const TrainedAttention& attention;
  int64_t b, h, length, n, d, ld, lds;  // lds: between rows of scores
  bool in_place;                        // whether a head's columns are whole vectors: others are copied and padded
  bool is_low;                          // whether products are of pairs of bf16, which take the room of a float
  Input q, k, v;                        // [length][d]
  float* copies[3];                     // [length][ld] of these where not in_place
  float* kt;                            // [units of d][lds]
  float *wide, *encoded;                // [length][ld] and [kQueries][ld], where products are bf16
  float *scores, *dropped;              // [kQueries][lds]

  Head(const KernelTable& t, Compute compute, const TrainedAttention& a, int64_t task)
      : table(t),
        attention(a),
        b(task % a.batch),
        h(task / a.batch),
        length(a.length),
        n(a.query.n),
        d(a.query.n / a.num_heads),
        ld(round_up(d, t.lanes)),
        lds(padded_stride(length, t.lanes)),
        in_place(d == ld),
        is_low(compute == Compute::bfloat16) {}

  // Floats of a copy of a head's columns.
  int64_t copy_size() const { return in_place ? 0 : length * ld; }
  // Of the operand B of a product that `rows` rows of a head are, stacked; and of A, kQueries rows encoded.
  int64_t stack_size(int64_t rows) const { return is_low ? divide_up(rows, 2) * ld : 0; }
  int64_t encoded_size() const { return is_low ? kQueries * ld : 0; }

  void place(Pieces& pieces) {
    for (float*& copy : copies) copy = pieces.take(copy_size());
    kt = pieces.take(d * lds);
    wide = pieces.take(is_low ? length * ld : 0);
    encoded = pieces.take(encoded_size());
    scores = pieces.take(kQueries * lds);
    dropped = attention.dropout.threshold == 0 ? scores : pieces.take(kQueries * lds);
  }
  // Behind place().
  void read(const AttentionState& state) {
    q = load(state.q, copies[0]), k = load(state.k, copies[1]), v = load(state.v, copies[2]);
    transpose(k, kt);
  }
  // Where this head's columns of a [rows][n] matrix begin.
  int64_t offset() const { return b * length * n + h * d; }

  // This head's columns of a matrix, readable up to whole vectors.
  Input load(const float* matrix, float* copy) const {
    const Input columns{matrix + offset(), n};
    if (in_place) return columns;
    for (int64_t r = 0; r < length; r++) {
      std::copy(columns.row(r), columns.row(r) + d, copy + r * ld);
      std::fill(copy + r * ld + d, copy + (r + 1) * ld, 0.0f);
    }
    return {copy, ld};
  }
  // Where to write this head's columns of a matrix, in whole vectors; store() behind that.
  Output target(float* matrix, float* copy) const { return in_place ? Output{matrix + offset(), n} : Output{copy, ld}; }
  void store(Output written, float* matrix) const {
    if (in_place) return;
    for (int64_t r = 0; r < length; r++) {
      std::copy(written.row(r), written.row(r) + d, matrix + offset() + r * n);
    }
  }
  int64_t units(int64_t k) const { return is_low ? divide_up(k, 2) : k; }
  // The operand A of a product, rows of k values; `to` may be where they are.
  Input encode(Input x, int64_t rows, int64_t k, Output to) const {
    if (!is_low) return x;
    table.bfloat16.encode(
        {.x = x.data, .ldx = x.stride, .y = to.data, .ldy = to.stride, .quantization = nullptr, .rows = rows, .k = k});
    return {to.data, to.stride};
  }
  // The operand B of a product over `rows` rows of a head.
  Input stack(Input x, int64_t rows, float* to) const {
    if (!is_low) return x;
    table.low_attention.stack_rows({.x = x.data, .ldx = x.stride, .y = to, .ldy = ld, .rows = rows, .cols = d});
    return {to, ld};
  }
  // The operand B of a product with the transposed columns of this head: [units of d][lds].
  void transpose(Input columns, float* to) const {
    const Input x = encode(columns, length, d, {wide, ld});
    table.transpose({.x = x.data, .ldx = x.stride, .y = to, .ldy = lds, .rows = length, .cols = units(d)});
  }
  void multiply(Input a, Input rhs, Output c, int64_t rows, int64_t steps, int64_t columns,
                bool accumulate = false) const {
    const auto gemm = is_low ? table.training.gemm_bfloat16 : table.training.gemm;
    gemm({a.data, a.stride, rhs.data, rhs.stride, c.data, c.stride, rows, units(steps), columns, accumulate});
  }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(d)); }

  // The probabilities of queries [first, first + rows) in `scores`, and as dropout leaves them in `dropped`.
  void probabilities(int64_t first, int64_t rows) const {
    const Input queries = encode({q.row(first), q.stride}, rows, d, {encoded, ld});
    multiply(queries, {kt, lds}, {scores, lds}, rows, d, length);
    const AttentionMask& mask = attention.mask;
    table.training.softmax(
        {.scores = scores,
         .lds = lds,
         .mask = mask.data ? mask.data + b * mask.stride[0] + h * mask.stride[1] + first * mask.stride[2] : nullptr,
         .mask_row_stride = mask.stride[2],
         .dropped = dropped,
         .rows = rows,
         .keys = length,
         .first_row = (b * attention.num_heads + h) * length + first,
         .scale = scale(),
         .dropout = attention.dropout});
  }
};

// Gradients of q, k and v, each [rows][n].
void core_backward(const KernelTable& table, const Parallel& parallel, Compute compute,
                   const TrainedAttention& attention, const AttentionState& state, const float* grad,
                   float* const (&gradients)[3]) {
  parallel_for(parallel, attention.num_heads * attention.batch, [&](int64_t task) {
    Head head(table, compute, attention, task);
    const int64_t length = head.length, d = head.d, lds = head.lds, copy = head.copy_size();
    const int64_t ldt = padded_stride(kQueries, table.lanes);
    struct Scratch {
      float *upstream, *dq, *dk, *dv, *vt, *dscores, *transposed, *keys, *stacked;
    };
    const Scratch scratch = Workspace::of<Scope::task>().cut([&](Pieces& pieces) {
      head.place(pieces);
      return Scratch{.upstream = pieces.take(copy),
                     .dq = pieces.take(copy),
                     .dk = pieces.take(copy),
                     .dv = pieces.take(copy),
                     .vt = pieces.take(d * lds),
                     .dscores = pieces.take(kQueries * lds),
                     .transposed = pieces.take(length * ldt),
                     .keys = pieces.take(head.stack_size(length)),
                     .stacked = pieces.take(head.stack_size(kQueries))};
    });
    float *vt = scratch.vt, *dscores = scratch.dscores, *transposed = scratch.transposed;
    head.read(state);
    const Input upstream = head.load(grad, scratch.upstream);
    const Output dq = head.target(gradients[0], scratch.dq);
    const Output dk = head.target(gradients[1], scratch.dk);
    const Output dv = head.target(gradients[2], scratch.dv);
    const Input keys = head.stack(head.k, length, scratch.keys);
    head.transpose(head.v, vt);
    for (int64_t first = 0; first < length; first += kQueries) {
      const int64_t rows = std::min(kQueries, length - first);
      const Input block{upstream.row(first), upstream.stride}, queries{head.q.row(first), head.q.stride};
      // sum += x^T y over these queries, x being scores.
      const auto add_product = [&](const float* x, Input y, Output sum) {
        table.transpose({.x = x, .ldx = lds, .y = transposed, .ldy = ldt, .rows = rows, .cols = length});
        const Input a = head.encode({transposed, ldt}, length, rows, {transposed, ldt});
        head.multiply(a, head.stack(y, rows, scratch.stacked), sum, length, rows, d, first > 0);
      };
      head.probabilities(first, rows);
      add_product(head.dropped, block, dv);
      head.multiply(head.encode(block, rows, d, {head.encoded, head.ld}), {vt, lds}, {dscores, lds}, rows, d, length);
      table.training.softmax_backward({.p = head.scores,
                                       .dropped = head.dropped,
                                       .grad = dscores,
                                       .lds = lds,
                                       .rows = rows,
                                       .keys = length,
                                       .scale = head.scale()});
      add_product(dscores, queries, dk);
      const Input a = head.encode({dscores, lds}, rows, length, {dscores, lds});
      head.multiply(a, keys, {dq.row(first), dq.stride}, rows, length, d);
    }
    head.store(dq, gradients[0]), head.store(dk, gradients[1]), head.store(dv, gradients[2]);
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
    Head head(table, compute, attention, task);
    struct Scratch {
      float *values, *out;
    };
    const Scratch scratch = Workspace::of<Scope::task>().cut([&](Pieces& pieces) {
      head.place(pieces);
      return Scratch{.values = pieces.take(head.stack_size(head.length)), .out = pieces.take(head.copy_size())};
    });
    head.read(state);
    const Input values = head.stack(head.v, head.length, scratch.values);
    const Output out = head.target(context.data, scratch.out);
    for (int64_t first = 0; first < head.length; first += kQueries) {
      const int64_t queries = std::min(kQueries, head.length - first);
      head.probabilities(first, queries);
      const Output dropped{head.dropped, head.lds};
      const Input a = head.encode({head.dropped, head.lds}, queries, head.length, dropped);
      head.multiply(a, values, {out.row(first), out.stride}, queries, head.length, head.d);
    }
    head.store(out, context.data);
  });
}

void attention_backward(const KernelTable& table, const Parallel& parallel, Compute compute,
                        const TrainedAttention& attention, Input x, const AttentionState& state, Input grad,
                        const ConvGradients (&gradients)[3], Output dx) {
  const int64_t rows = attention.rows(), n = attention.query.n;
  compute = training_compute(table, compute);
  float* projected[3];
  Workspace::of<Scope::layer>().cut([&](Pieces& pieces) {
    for (float*& gradient : projected) gradient = pieces.take(rows * n);
  });
  if (rows > 0) core_backward(table, parallel, compute, attention, state, grad.data, projected);
  const TrainedConv* convs[3] = {&attention.query, &attention.key, &attention.value};
  ConvBackward backward[3];
  for (int i = 0; i < 3; i++) backward[i] = {*convs[i], {projected[i], n}, gradients[i]};
  conv_backward(table, parallel, compute, backward, 3, x, rows, dx);
}

}  // namespace sbk
