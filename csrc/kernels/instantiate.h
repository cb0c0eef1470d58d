// The kernel table of a tier: all that a file in isa/ needs.
#pragma once
#include "kernels/attention.h"
#include "kernels/conv.h"
#include "kernels/rowwise.h"
#include "kernels/table.h"

namespace sbk {
namespace {

// V: vector type; B: how the tier multiplies bf16; I: how it multiplies int8 (kernels/element.h).
template <class V, class B, class I>
constexpr KernelTable make_table(const char* isa) {
  KernelTable t{};
  t.isa = isa;
  t.lanes = V::lanes;
  t.tile_vectors = V::tile_vectors;
  t.tile_rows = V::tile_rows;
  t.conv = conv<F32<V>>;
  t.bfloat16 = {B::per, false, encode_bf16<B>, conv<B>};
  t.int8 = {I::per, I::is_unsigned, encode_int8<I>, conv<I>};
  t.layer_norm = layer_norm<V>;
  t.transpose = transpose<V>;
  t.attention = attention<F32<V>>;
  t.attention_scratch = attention_scratch<V>;
  if constexpr (B::per > 1) {
    t.attention_bfloat16 = attention<B>;
    t.pair_rows = pair_rows<B>;
  }
  return t;
}

}  // namespace
}  // namespace sbk
