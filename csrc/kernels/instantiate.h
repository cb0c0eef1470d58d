// The kernel table of a Vec: all that a file in isa/ needs.
#pragma once
#include "kernels/attention.h"
#include "kernels/conv.h"
#include "kernels/rowwise.h"
#include "kernels/table.h"

namespace sbk {
namespace {

template <class V>
constexpr KernelTable make_table() {
  return {V::isa,     V::lanes,        V::tile_vectors, V::tile_rows,          conv<V>,
          layer_norm<V>, transpose<V>, attention<V>,    attention_scratch<V>};
}

}  // namespace
}  // namespace sbk
