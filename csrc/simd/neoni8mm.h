// FEAT_I8MM: smmla, 32 products of int8, twice as many as sdot. What is stored is as there.
#pragma once
#include "simd/neondot.h"
#include "simd/neonmatrix.h"

namespace sbk {
namespace {

struct NeonI8MM : NeonMatrix<int8x16_t>, NeonInt8 {
  static constexpr int per = 8;

  static SBK_INLINE acc mac(acc c, b32 a, b32 b) { return vmmlaq_s32(c, a, b); }
};

}  // namespace
}  // namespace sbk
