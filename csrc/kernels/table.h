// kernels/ is the room of the arithmetic: templates over the vector and element types of simd/, which isa/ instantiates
// once per instruction set tier.
//
// This file: the contract of every kernel, beside its arguments. One KernelTable per ISA tier drives dispatch, tests
// and benchmarks.
//
// All kernels are stateless: they allocate nothing, spawn nothing, lock nothing, and may run on any number of threads
// with distinct outputs. Strides are in floats. Pointers need the alignment of a float only. Outputs never overlap
// inputs unless a kernel says so. Preconditions are the caller's duty (ops/ops.cpp checks them); sizes may be 0, but
// for attention's keys. NaN and infinity propagate as in the formulas.
//
// A result depends on the values alone, never on how rows are split between calls: each element is one chain of
// multiply-adds in the order of K.
#pragma once
#include <cstdint>

#include "kernels/layout.h"

namespace sbk {

enum class Activation : int32_t { none, gelu, gelu_tanh, relu };

// Operands of the multiplications come in units of `per` = 1, 2, 4 or 8 neighbours along K, as the tier's instructions
// want them: 32 bits, 16 where halves are multiplied one by one, 64 where small matrices are (layout.h). In fp32 a unit
// is a float, and a row of x is its own encoding.
//
// How a row of x became integers: value = scale * (stored - zero).
struct RowQuantization {
  float scale;
  int32_t zero;  // 0 where the tier stores 0 as 0
};

// y[r] = x[r] encoded for a convolution: ceil(k / per) units, the values behind k zero.
// int8: round(x[i] / scale) in 255 steps from the least value (or 0) to the greatest (or 0): scale = (greatest - least)
// / 254. NaN or inf in a row make its scale NaN. bf16 and fp16: to nearest, ties to even; what fp16 cannot hold, from
// 65520 on, is infinity.
struct EncodeArgs {
  const float* x;  // [rows][k]
  int64_t ldx;
  void* y;                        // [rows][ceil(k / per)] units
  int64_t ldy;                    // units between rows
  RowQuantization* quantization;  // [rows], int8 only
  int64_t rows, k;
  float factor = 1.0f;  // fp16 only: x is multiplied by it first
};

// y[r][c] = activation(bias[c] + sum_k x[r][k] * w[c][k] + residual[r][c]),  r < rows, c < n
// Where sums are fp16 (LowPrecision::chunk), GELU is exact to 2.1e-5 |x|.
struct ConvArgs {
  const void* x;          // [rows][ceil(k / per)] units
  int64_t ldx;            // units between rows of x
  const void* panels;     // w of this block of columns, packed for this tier: ops/packed.h has the equation
  const float* bias;      // [n] or null
  const float* residual;  // [rows][n] or null; may be y itself
  int64_t ldr;
  float* y;  // [rows][n]
  int64_t ldy;
  int64_t rows, k, n;                               // k in values
  Activation activation;                            // not together with a residual
  const RowQuantization* x_quantization = nullptr;  // [rows], int8 only: of encode
};

// y[r] = (x[r] - mean) / sqrt(variance + eps) * gamma + beta over the n channels; variance divides by n. y may be x.
struct LayerNormArgs {
  const float* x;
  int64_t ldx;
  const float* gamma;  // [n]
  const float* beta;   // [n]
  float* y;
  int64_t ldy;
  int64_t rows, n;
  float eps;
};

// y[c][r] = x[r][c]: columns c < cols, rows r < rows. Writes the rest of the last vector of every y row with
// unspecified finite or infinite values: ldy >= rows rounded up to lanes.
struct TransposeArgs {
  const float* x;
  int64_t ldx;
  float* y;
  int64_t ldy;
  int64_t rows, cols;
};

// y[j][c] = the unit (x[per j][c], ..., x[per j + per - 1][c]): attention's operands that are multiplied along their
// rows. Rows behind the last are zero. May write whole vectors: ldy >= cols rounded up to lanes.
struct StackRowsArgs {
  const float* x;
  int64_t ldx;
  void* y;
  int64_t ldy;  // units
  int64_t rows, cols;
};

// One head of attention: context[r] = sum_j p[r][j] v[j], p[r] = softmax_j(scale * q[r] . k[j] + mask[r][j]).
// Online softmax over blocks of keys; a row whose every score is -inf gives NaN, as softmax does. `lanes` and units are
// those of the compute.
struct AttentionArgs {
  const void* q;  // [rows][ceil(d / per)] units
  int64_t ldq;
  const void* kt;  // keys transposed, [ceil(d / per)][keys] units; readable up to `keys` rounded up to lanes
  int64_t ldk;
  const void*
      v;  // [ceil(keys / per)][d] units; readable up to d rounded up to lanes, what is behind d reaches no output
  int64_t ldv;
  const float* mask;        // [rows][keys], last stride 1, or null; may be null with any stride
  int64_t mask_row_stride;  // 0 where all rows share one mask
  float* context;           // [rows][d]
  int64_t ldc;
  float* scratch;  // attention_scratch(keys, d) floats, 64-byte aligned
  int64_t rows, keys, d;
  float scale;
};

// Convolutions that multiply in less than fp32.
struct LowPrecision {
  void (*encode)(const EncodeArgs&);
  void (*conv)(const ConvArgs&);
  // fp16 in fp16 arithmetic: units of K whose products are summed in fp16, from 0 on, before they are added to an fp32
  // sum. 0: every sum is fp32 or int32.
  int64_t chunk;
};

// Attention whose own products are less than fp32, for projections that are. Operands are rounded as `compute` says,
// and sums of fp16 are chunked as its convolutions are; softmax is fp32.
struct LowAttention {
  void (*attention)(const AttentionArgs&);  // null where the tier has no instruction for it
  void (*stack_rows)(const StackRowsArgs&);
  Compute compute;
};

// --- Training ---

// Dropout keeps a value where a random number of 32 bits is at least `threshold` = p 2^32, and multiplies it by `scale`
// = 1 / (1 - p); 0 where p = 1. The number is a function of the seed, the site (which dropout of a model this is), the
// row and the column alone: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) with the
// seed as its key and the counter (column / 64 * 16 + column % 16, row, row >> 32, site), of whose four words this is
// number column / 16 % 4.
struct Dropout {
  uint64_t seed;
  uint32_t site;
  uint32_t threshold;  // 0: nothing is dropped
  float scale;
};

// y = x * factor + residual, where factor is what the dropout makes of row first_row + r and column c. y may be x or
// the residual.
struct DropoutArgs {
  const float* x;
  int64_t ldx;
  const float* residual;  // [rows][n] or null
  int64_t ldr;
  float* y;
  int64_t ldy;
  int64_t rows, n, first_row;
  Dropout dropout;
};

// c[r][j] = sum_k a[r][k] b[k][j], or += with `accumulate`. Columns up to the next whole vector of b are read, of c
// written. In bf16 a and b are units of 32 bits, pairs along K as EncodeArgs and StackRowsArgs make them, and k and the
// strides count these.
struct GemmArgs {
  const float* a;  // [rows][k]
  int64_t lda;
  const float* b;  // [k][columns]
  int64_t ldb;
  float* c;  // [rows][columns]
  int64_t ldc;
  int64_t rows, k, columns;
  bool accumulate;
};

// From scores s = q . k: p = softmax(scale s + mask), and `dropped`, p as the dropout leaves it.
struct SoftmaxArgs {
  float* scores;  // [rows][keys] in, p out; writable up to whole vectors of keys
  int64_t lds;
  const float* mask;  // [rows][keys] or null
  int64_t mask_row_stride;
  float* dropped;  // [rows][keys], stride lds, writable up to whole vectors; scores itself where nothing is dropped
  int64_t rows, keys, first_row;
  float scale;
  Dropout dropout;
};

// The gradient of the scores: ds = scale (dropped * grad - p delta[r]), delta[r] = sum over keys of dropped * grad.
struct SoftmaxBackwardArgs {
  const float* p;        // [rows][keys]
  const float* dropped;  // [rows][keys]
  float* grad;           // [rows][keys]: of `dropped` in, of the scores out
  int64_t lds;           // of all three
  int64_t rows, keys;
  float scale;
};

// y = activation(z), and grad *= activation'(z), unless grad is null. y may be z where grad is.
struct ActivationBackwardArgs {
  const float* z;
  int64_t ldz;
  float* grad;
  int64_t ldg;
  float* y;
  int64_t ldy;
  int64_t rows, n;
  Activation activation;
};

// The gradient of LayerNormArgs: dx; and dgamma, dbeta [n], to which the sums over these rows are added. dx may be
// grad.
struct LayerNormBackwardArgs {
  const float* x;
  int64_t ldx;
  const float* gamma;
  const float* grad;
  int64_t ldg;
  float* dx;
  int64_t lddx;
  float* dgamma;
  float* dbeta;
  int64_t rows, n;
  float eps;
};

// y[r] = sum_c x[r][c], or += with `accumulate`.
struct SumRowsArgs {
  const float* x;
  int64_t ldx;
  float* y;
  int64_t rows, n;
  bool accumulate;
};

struct TrainingKernels {
  void (*dropout)(const DropoutArgs&);
  void (*gemm)(const GemmArgs&);           // fp32
  void (*gemm_bfloat16)(const GemmArgs&);  // null where the tier does not multiply pairs of bf16
  void (*softmax)(const SoftmaxArgs&);
  void (*softmax_backward)(const SoftmaxBackwardArgs&);
  void (*activation_backward)(const ActivationBackwardArgs&);
  void (*layer_norm_backward)(const LayerNormBackwardArgs&);
  void (*sum_rows)(const SumRowsArgs&);
};

struct KernelTable {
  const char* isa;
  TierLayout layout;
  int32_t lanes;         // } of fp32
  int32_t tile_vectors;  // } widest panel, in vectors
  int32_t tile_rows;
  void (*conv)(const ConvArgs&);  // fp32
  LowPrecision bfloat16, int8, float16;
  void (*layer_norm)(const LayerNormArgs&);
  void (*transpose)(const TransposeArgs&);
  void (*attention)(const AttentionArgs&);  // fp32
  LowAttention low_attention;
  int64_t (*attention_scratch)(int64_t keys, int64_t d);  // floats; for every compute
  TrainingKernels training;
};

}  // namespace sbk
