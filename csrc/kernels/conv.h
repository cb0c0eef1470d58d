// Grouped pointwise convolution of one block of columns: ConvArgs in table.h.
#pragma once
#include <type_traits>

#include "kernels/element.h"
#include "kernels/math.h"
#include "kernels/table.h"
#include "kernels/tile.h"

namespace sbk {
namespace {

template <class E>
constexpr bool sums_integers = E::chunk == 0 && !std::is_same_v<typename E::acc, typename E::Vec::f32>;

// One tile of the output: rows [row, row + MR), columns [column, column + NV vectors), the last vector maybe partial.
template <class E>
struct ConvTileArgs {
  const ConvArgs& conv;
  const typename E::unit* panel;
  const int32_t* offset;  // int8: of these columns
  const float* w_scale;   // int8: of these columns
  int64_t row, column;
  const typename E::unit *ahead0, *ahead1;  // what this tile fetches for the next panel, where Vec::prefetches
};

template <class E>
struct ConvTile {
  using V = typename E::Vec;
  static constexpr bool is_int8 = sums_integers<E>;

  template <int MR, int NV>
  static void run(const ConvTileArgs<E>& t) {
    using f32 = typename V::f32;
    const ConvArgs& p = t.conv;
    const int64_t columns = p.n - t.column < NV * V::lanes ? p.n - t.column : NV * V::lanes;
    const int64_t tail = columns - (NV - 1) * V::lanes;  // columns in the last vector
    const auto is_partial = [&](int j) SBK_INLINE_LAMBDA { return j == NV - 1 && tail < V::lanes; };
    const auto load_bias = [&](int j) SBK_INLINE_LAMBDA {
      if (!p.bias) return V::zero();
      const float* bias = p.bias + t.column + j * V::lanes;
      return is_partial(j) ? V::load_partial(bias, tail) : V::load(bias);
    };

    Tile<E, MR, NV> acc;
    unroll<NV>([&](auto j) SBK_INLINE_LAMBDA {
      if constexpr (is_int8) {
        unroll<MR>([&](auto i) SBK_INLINE_LAMBDA {
          acc[i][j] = E::first_acc(t.offset + j * V::lanes, p.x_quantization[t.row + i].zero);
        });
      } else {
        const f32 b = load_bias(j);
        unroll<MR>([&](auto i) SBK_INLINE_LAMBDA { acc[i][j] = b; });
      }
    });
    tile_mac<E, MR, NV, V::prefetches>(acc, static_cast<const int32_t*>(p.x) + t.row * p.ldx, p.ldx, t.panel,
                                       NV * V::lanes, (p.k + E::per - 1) / E::per, t.ahead0, t.ahead1);

    const float* residual = p.residual ? p.residual + t.row * p.ldr + t.column : nullptr;
    float* y = p.y + t.row * p.ldy + t.column;
    unroll<NV>([&](auto j) SBK_INLINE_LAMBDA {
      f32 scale, bias;
      if constexpr (is_int8) scale = V::load(t.w_scale + j * V::lanes), bias = load_bias(j);
      unroll<MR>([&](auto i) SBK_INLINE_LAMBDA {
        f32 value;
        if constexpr (is_int8) {
          value = V::fma(E::to_float(acc[i][j]), V::mul(scale, V::set1(p.x_quantization[t.row + i].scale)), bias);
        } else {
          value = acc[i][j];
        }
        if (residual) {
          const float* at = residual + i * p.ldr + j * V::lanes;
          value = V::add(value, is_partial(j) ? V::load_partial(at, tail) : V::load(at));
        }
        float* at = y + i * p.ldy + j * V::lanes;
        if (is_partial(j)) {
          V::store_partial(at, value, tail);
        } else {
          V::store(at, value);
        }
      });
    });
    // From L1, where the tile still is: in registers the accumulators would leave no room for the constants.
    activate<V>(y, p.ldy, MR, columns, p.activation);
  }
};

// The same where sums are widened after every E::chunk units of K: then they live in y, which begins as the bias and
// the residual.
template <class E>
struct ChunkedConvTile {
  using V = typename E::Vec;

  template <int MR, int NV>
  static void run(const ConvTileArgs<E>& t) {
    const ConvArgs& p = t.conv;
    const int64_t columns = p.n - t.column < NV * E::lanes ? p.n - t.column : NV * E::lanes;
    const auto* x = static_cast<const typename E::unit*>(p.x) + t.row * p.ldx;
    float* y = p.y + t.row * p.ldy + t.column;
    int64_t first = 0;
    do {
      Tile<E, MR, NV> acc{};
      const int64_t left = p.k - first;
      tile_mac<E, MR, NV>(acc, x + first, p.ldx, t.panel + first * NV * E::lanes, NV * E::lanes,
                          left < E::chunk ? left : E::chunk);
      if (columns == NV * E::lanes) {
        widen<true, MR, NV>(t, acc, y, columns, first == 0);
      } else {
        widen<false, MR, NV>(t, acc, y, columns, first == 0);
      }
      first += E::chunk;
    } while (first < p.k);
    activate<V>(y, p.ldy, MR, columns, p.activation);
  }

 private:
  template <bool is_whole, int MR, int NV>
  static SBK_INLINE void widen(const ConvTileArgs<E>& t, const Tile<E, MR, NV>& acc, float* y, int64_t columns,
                               bool is_first) {
    using f32 = typename V::f32;
    const ConvArgs& p = t.conv;
    const float* bias = is_first && p.bias ? p.bias + t.column : nullptr;
    const float* residual = is_first && p.residual ? p.residual + t.row * p.ldr + t.column : nullptr;
    constexpr int parts = E::lanes / V::lanes;
    unroll<NV>([&](auto j) SBK_INLINE_LAMBDA {
      unroll<parts>([&](auto h) SBK_INLINE_LAMBDA {
        const int64_t at = j * E::lanes + h * V::lanes, left = columns - at;
        if (!is_whole && left <= 0) return;
        const auto read = [&](const float* from) SBK_INLINE_LAMBDA {
          return is_whole || left >= V::lanes ? V::load(from) : V::load_partial(from, left);
        };
        const f32 b = bias ? read(bias + at) : V::zero();
        unroll<MR>([&](auto i) SBK_INLINE_LAMBDA {
          f32 sum = is_first ? b : read(y + i * p.ldy + at);
          sum = V::add(sum, E::template widened<h>(acc[i][j]));
          if (residual) sum = V::add(sum, read(residual + i * p.ldr + at));
          float* to = y + i * p.ldy + at;
          if (is_whole || left >= V::lanes) {
            V::store(to, sum);
          } else {
            V::store_partial(to, sum, left);
          }
        });
      });
    });
  }
};

// A panel of B is read by every tile of rows in turn and stays in L1 or L2; A streams. Meanwhile the first tiles fetch
// what lies behind the panel, which is the next one, up to two vectors each in every step: weights come from memory,
// and the hardware begins anew to guess at the start of every panel.
template <class E>
void conv(const ConvArgs& p) {
  using V = typename E::Vec;
  using unit = typename E::unit;
  using Kernel = std::conditional_t<E::chunk == 0, ConvTile<E>, ChunkedConvTile<E>>;
  const int64_t vectors = (p.n + E::lanes - 1) / E::lanes, units = (p.k + E::per - 1) / E::per;
  const unit* panels = static_cast<const unit*>(p.panels);
  const int32_t* offset = nullptr;
  const float* w_scale = nullptr;
  if constexpr (sums_integers<E>) {
    offset = panels;
    w_scale = reinterpret_cast<const float*>(panels + vectors * E::lanes);
    panels += 2 * vectors * E::lanes;
  }
  for_each_panel<V>(vectors, [&](Panel panel) SBK_INLINE_LAMBDA {
    const int64_t column = panel.first * E::lanes;
    const unit *b = panels + column * units, *next = b + panel.width * E::lanes * units;
    for (int64_t row = 0; row < p.rows; row += V::tile_rows) {
      const int64_t left = p.rows - row;
      const int rows = static_cast<int>(left < V::tile_rows ? left : V::tile_rows);
      const unit *ahead0 = nullptr, *ahead1 = nullptr;
      if constexpr (V::prefetches) {
        // Few tiles fetch two vectors each, many one.
        const int64_t tile = row / V::tile_rows, each = p.rows > (panel.width - 1) * V::tile_rows ? 1 : 2;
        const auto fetched = [&](int64_t i)
                                 SBK_INLINE_LAMBDA { return i < panel.width ? next + i * E::lanes * units : b; };
        ahead0 = fetched(tile * each), ahead1 = each == 2 ? fetched(tile * 2 + 1) : b;
      }
      dispatch_tile<V, Kernel>(rows, panel.width,
                               ConvTileArgs<E>{p, b, offset ? offset + column : nullptr,
                                               w_scale ? w_scale + column : nullptr, row, column, ahead0, ahead1});
    }
  });
}

// Rows of x in bf16 or fp16. y may be x.
template <class E>
void encode_rounded(const EncodeArgs& p) {
  using V = typename E::Vec;
  const int64_t padded = (p.k + E::per - 1) / E::per * E::per;
  for (int64_t r = 0; r < p.rows; r++) {
    const float* x = p.x + r * p.ldx;
    char* y = static_cast<char*>(p.y) + r * p.ldy * static_cast<int64_t>(sizeof(typename E::unit));
    int64_t i = 0;
    for (; i + V::lanes <= p.k; i += V::lanes) {
      typename V::f32 v = V::load(x + i);
      if constexpr (E::chunk != 0) v = V::mul(v, V::set1(p.factor));
      E::encode_vector(y + i * E::value_bytes, v);
    }
    for (; i < padded; i++) {
      float v = i < p.k ? x[i] : 0.0f;
      if constexpr (E::chunk != 0) v *= p.factor;
      E::encode_value(y + i * E::value_bytes, v);
    }
  }
}

// Rows of x in int8, each with a scale and a zero of its own.
template <class E>
void encode_int8(const EncodeArgs& p) {
  using V = typename E::Vec;
  using f32 = typename V::f32;
  const int64_t padded = (p.k + E::per - 1) / E::per * E::per;
  for (int64_t r = 0; r < p.rows; r++) {
    const float* x = p.x + r * p.ldx;
    char* y = static_cast<char*>(p.y) + r * p.ldy * 4;
    // The greatest x and the greatest -x, both from 0 up. x * 0 is NaN for infinities and NaN, which a maximum may
    // lose.
    f32 greatest[2] = {V::zero(), V::zero()}, least[2] = {V::zero(), V::zero()}, poison[2] = {V::zero(), V::zero()};
    float max = 0.0f, negative_max = 0.0f, tail_poison = 0.0f;
    int64_t i = 0;
    const auto look = [&](int64_t at, int lane) SBK_INLINE_LAMBDA {
      const f32 v = V::load(x + at);
      greatest[lane] = V::max(v, greatest[lane]);
      least[lane] = V::max(V::sub(V::zero(), v), least[lane]);
      poison[lane] = V::fma(v, V::zero(), poison[lane]);
    };
    for (; i + 2 * V::lanes <= p.k; i += 2 * V::lanes) look(i, 0), look(i + V::lanes, 1);
    for (; i + V::lanes <= p.k; i += V::lanes) look(i, 0);
    for (; i < p.k; i++) {
      max = x[i] > max ? x[i] : max;
      negative_max = -x[i] > negative_max ? -x[i] : negative_max;
      tail_poison += x[i] * 0.0f;
    }
    const float vector_max = V::reduce_max(V::max(greatest[0], greatest[1]));
    const float vector_negative_max = V::reduce_max(V::max(least[0], least[1]));
    max = vector_max > max ? vector_max : max;
    negative_max = vector_negative_max > negative_max ? vector_negative_max : negative_max;
    const float half_span = 0.5f * max + 0.5f * negative_max;  // the whole might overflow
    const float scale = half_span / 127.0f + (V::reduce_add(V::add(poison[0], poison[1])) + tail_poison);
    float inverse = 127.0f / half_span;
    if (!(inverse < __builtin_inff())) inverse = 0.0f;  // all of them 0, or as good as 0

    if (scale != scale) {  // it says it all; converting NaN or infinity to an integer is undefined
      p.quantization[r] = {scale, 0};
      for (i = 0; i < padded; i++) E::encode_value(y + i * E::value_bytes, 0.0f);
      continue;
    }
    const float zero =
        E::least == kSymmetric ? 0.0f : static_cast<float>(E::least) + __builtin_rintf(negative_max * inverse);
    p.quantization[r] = {scale, static_cast<int32_t>(zero)};
    const f32 vinverse = V::set1(inverse), vzero = V::set1(zero);
    i = 0;
    for (; i + V::lanes <= p.k; i += V::lanes) {
      E::encode_vector(y + i * E::value_bytes, V::add(V::round(V::mul(V::load(x + i), vinverse)), vzero));
    }
    for (; i < padded; i++) {
      E::encode_value(y + i * E::value_bytes, (i < p.k ? __builtin_rintf(x[i] * inverse) : 0.0f) + zero);
    }
  }
}

}  // namespace
}  // namespace sbk
