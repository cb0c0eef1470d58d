// The kernel table of a tier: all that a file in isa/ needs.
#pragma once
#include "isa/layouts.h"
#include "kernels/attention.h"
#include "kernels/conv.h"
#include "kernels/gradients.h"
#include "kernels/rowwise.h"
#include "kernels/table.h"

namespace sbk {
namespace {

template <class E>
constexpr PackLayout layout_of_element() {
  return {E::lanes, E::Vec::tile_vectors, E::per, static_cast<int32_t>(sizeof(typename E::unit)), E::least};
}

// V: vector type; B, I, H: how the tier multiplies bf16, int8 and fp16 (kernels/element.h).
template <class V, class B, class I, class H>
constexpr KernelTable make_table(const char* isa) {
  KernelTable t{};
  t.isa = isa;
  t.layout = {isa, layout_of_element<F32<V>>(), layout_of_element<B>(), layout_of_element<I>(), layout_of_element<H>()};
  if (!(t.layout == *layout_named(isa))) __builtin_unreachable();  // does not compile: tiers.inc has another layout
  t.lanes = V::lanes;
  t.tile_vectors = V::tile_vectors;
  t.tile_rows = V::tile_rows;
  t.conv = conv<F32<V>>;
  t.bfloat16 = {encode_rounded<B>, conv<B>, B::chunk};
  t.int8 = {encode_int8<I>, conv<I>, I::chunk};
  t.float16 = {encode_rounded<H>, conv<H>, H::chunk};
  t.layer_norm = layer_norm<V>;
  t.transpose = transpose<V>;
  t.attention = attention<F32<V>>;
  t.attention_scratch = attention_scratch<V>;
  // The faster of what the tier has.
  if constexpr (multiplies_less_than_fp32<H>) {
    t.low_attention = {attention<H>, stack_rows<H>, Compute::float16};
    t.attention_scratch = attention_scratch<H>;
  } else if constexpr (multiplies_less_than_fp32<B>) {
    t.low_attention = {attention<B>, stack_rows<B>, Compute::bfloat16};
  }
  t.training = {dropout<V>,
                gemm_rows<F32<V>>,
                nullptr,
                softmax<V>,
                softmax_backward<V>,
                activation_backward<V>,
                layer_norm_backward<V>,
                sum_rows<V>};
  if constexpr (multiplies_less_than_fp32<B> && sizeof(typename B::unit) == sizeof(float)) {
    t.training.gemm_bfloat16 = gemm_rows<B>;
  }
  return t;
}

}  // namespace
}  // namespace sbk
