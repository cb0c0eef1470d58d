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

// A panel of the output: rows [first_row, last_row), whole tiles of them, and columns [column, column + NV vectors),
// the last vector maybe partial.
template <class E>
struct ConvPanelArgs {
  const ConvArgs& conv;
  const typename E::unit* panel;
  const int32_t* offset;  // int8: of these columns
  const float* w_scale;   // int8: of these columns
  int64_t first_row, last_row, column;
};

// What tile `tile` of a panel fetches for the next one: the first tiles two vectors each in every step where there are
// few, one where there are many.
template <class E, int NV>
struct Ahead {
  const typename E::unit *first = nullptr, *second = nullptr;

  SBK_INLINE Ahead(const ConvArgs& p, const typename E::unit* panel, int64_t tile) {
    if constexpr (E::Vec::prefetches) {
      const int64_t units = (p.k + E::per - 1) / E::per, each = p.rows > (NV - 1) * E::Vec::tile_rows ? 1 : 2;
      const auto fetched = [&](int64_t i)
                               SBK_INLINE_LAMBDA { return i < NV ? panel + (NV + i) * E::lanes * units : panel; };
      first = fetched(tile * each), second = each == 2 ? fetched(tile * 2 + 1) : panel;
    }
  }
};

// A panel's tiles, row after row: Kind::tile<whole, MR, NV>(t, row, columns), where `whole` tells that no vector of it
// is partial.
template <class Kind, class E>
struct PanelTiles {
  template <int MR, int NV>
  static void run(const ConvPanelArgs<E>& t) {
    const int64_t columns = t.conv.n - t.column < NV * E::lanes ? t.conv.n - t.column : NV * E::lanes;
    if (columns == NV * E::lanes) {
      for (int64_t row = t.first_row; row < t.last_row; row += MR) Kind::template tile<true, MR, NV>(t, row, columns);
    } else {
      run_edge<MR, NV>(t, columns);
    }
  }

 private:
  // The last vector is partial. A function of its own, or GCC 12 has the registers of both kinds of tile in mind.
  template <int MR, int NV>
  static SBK_NOINLINE void run_edge(const ConvPanelArgs<E>& t, int64_t columns) {
    for (int64_t row = t.first_row; row < t.last_row; row += MR) Kind::template tile<false, MR, NV>(t, row, columns);
  }
};

template <class E>
struct ConvTile : PanelTiles<ConvTile<E>, E> {
  using V = typename E::Vec;
  static constexpr bool is_int8 = sums_integers<E>;

  template <bool is_whole, int MR, int NV>
  static SBK_INLINE void tile(const ConvPanelArgs<E>& t, int64_t row, int64_t columns) {
    using f32 = typename V::f32;
    const ConvArgs& p = t.conv;
    const int64_t tail = columns - (NV - 1) * V::lanes;  // columns in the last vector
    const auto is_partial = [&](int j) SBK_INLINE_LAMBDA { return !is_whole && j == NV - 1; };
    const auto load_bias = [&](int j) SBK_INLINE_LAMBDA {
      if (!p.bias) return V::zero();
      const float* bias = p.bias + t.column + j * V::lanes;
      return is_partial(j) ? V::load_partial(bias, tail) : V::load(bias);
    };

    Tile<E, MR, NV> acc;
    unroll<NV>([&](auto j) SBK_INLINE_LAMBDA {
      if constexpr (is_int8) {
        unroll<MR>([&](auto i) SBK_INLINE_LAMBDA {
          acc[i][j] = E::first_acc(t.offset + j * V::lanes, p.x_quantization[row + i].zero);
        });
      } else {
        const f32 b = load_bias(j);
        unroll<MR>([&](auto i) SBK_INLINE_LAMBDA { acc[i][j] = b; });
      }
    });
    const Ahead<E, NV> ahead(p, t.panel, row / V::tile_rows);
    tile_mac<E, MR, NV, V::prefetches>(acc, static_cast<const typename E::unit*>(p.x) + row * p.ldx, p.ldx, t.panel,
                                       NV * V::lanes, (p.k + E::per - 1) / E::per, ahead.first, ahead.second);

    const int64_t ldr = p.ldr, ldy = p.ldy;
    const float* residual = p.residual ? p.residual + row * ldr + t.column : nullptr;
    float* y = p.y + row * ldy + t.column;
    const auto store = [&](int i, int j, f32 value) SBK_INLINE_LAMBDA {
      if (residual) {
        const float* at = residual + i * ldr + j * V::lanes;
        value = V::add(value, is_partial(j) ? V::load_partial(at, tail) : V::load(at));
      }
      float* at = y + i * ldy + j * V::lanes;
      if (is_partial(j)) {
        V::store_partial(at, value, tail);
      } else {
        V::store(at, value);
      }
    };
    if constexpr (is_int8) {
      unroll<NV>([&](auto j) SBK_INLINE_LAMBDA {
        const f32 scale = V::load(t.w_scale + j * V::lanes), bias = load_bias(j);
        unroll<MR>([&](auto i) SBK_INLINE_LAMBDA {
          const f32 row_scale = V::set1(p.x_quantization[row + i].scale);
          store(i, j, V::fma(E::to_float(acc[i][j]), V::mul(scale, row_scale), bias));
        });
      });
    } else {
      unroll<MR>([&](auto i)
                     SBK_INLINE_LAMBDA { unroll<NV>([&](auto j) SBK_INLINE_LAMBDA { store(i, j, acc[i][j]); }); });
    }
    // From L1, where the tile still is: in registers the accumulators would leave no room for the constants.
    activate<V, Erf>(y, ldy, MR, columns, p.activation);
  }
};

// The same where sums are widened after every E::chunk units of K: then they live in y, which begins as the bias and
// the residual.
template <class E>
struct ChunkedConvTile : PanelTiles<ChunkedConvTile<E>, E> {
  using V = typename E::Vec;

  template <bool is_whole, int MR, int NV>
  static SBK_INLINE void tile(const ConvPanelArgs<E>& t, int64_t row, int64_t columns) {
    const ConvArgs& p = t.conv;
    const auto* x = static_cast<const typename E::unit*>(p.x) + row * p.ldx;
    float* y = p.y + row * p.ldy + t.column;
    int64_t first = 0;
    do {
      Tile<E, MR, NV> acc{};
      const int64_t left = p.k - first;
      tile_mac<E, MR, NV>(acc, x + first, p.ldx, t.panel + first * NV * E::lanes, NV * E::lanes,
                          left < E::chunk ? left : E::chunk);
      if (first == 0) {
        widen<true, is_whole, MR, NV>(t, row, acc, y, columns);
      } else {
        widen<false, is_whole, MR, NV>(t, row, acc, y, columns);
      }
      first += E::chunk;
    } while (first < p.k);
    activate<V, ErfOfHalves>(y, p.ldy, MR, columns, p.activation);
  }

  // y = bias + residual + acc, or y += acc.
  template <bool is_first, bool is_whole, int MR, int NV>
  static SBK_INLINE void widen(const ConvPanelArgs<E>& t, int64_t row, const Tile<E, MR, NV>& acc, float* y,
                               int64_t columns) {
    using f32 = typename V::f32;
    const ConvArgs& p = t.conv;
    const int64_t ldr = p.ldr, ldy = p.ldy;
    const float* bias = is_first && p.bias ? p.bias + t.column : nullptr;
    const float* residual = is_first && p.residual ? p.residual + row * ldr + t.column : nullptr;
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
          f32 sum = V::add(is_first ? b : read(y + i * ldy + at), E::template widened<h>(acc[i][j]));
          if (residual) sum = V::add(sum, read(residual + i * ldr + at));
          float* to = y + i * ldy + at;
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
  const void* behind_prefix = p.panels;
  const int32_t* offset = nullptr;
  const float* w_scale = nullptr;
  if constexpr (sums_integers<E>) {
    offset = static_cast<const int32_t*>(p.panels);
    w_scale = reinterpret_cast<const float*>(offset + vectors * E::lanes);
    behind_prefix = w_scale + vectors * E::lanes;
  }
  const unit* panels = static_cast<const unit*>(behind_prefix);
  const int64_t whole = p.rows / V::tile_rows * V::tile_rows;
  for_each_panel<V>(vectors, [&](Panel panel) SBK_INLINE_LAMBDA {
    const int64_t column = panel.first * E::lanes;
    ConvPanelArgs<E> t{p,
                       panels + column * units,
                       offset ? offset + column : nullptr,
                       w_scale ? w_scale + column : nullptr,
                       0,
                       whole,
                       column};
    if (whole > 0) dispatch_tile<V, Kernel>(V::tile_rows, panel.width, t);
    t.first_row = whole, t.last_row = p.rows;
    if (p.rows > whole) dispatch_tile<V, Kernel>(static_cast<int>(p.rows - whole), panel.width, t);
  });
}

// The whole vectors of a row times `factor`, encoded into y; `zero` is int8's. Returns how many values they are. Four
// at a time, since a step of a loop costs as much as a vector does.
template <class E, class... Zero>
SBK_INLINE int64_t encode_vectors(const float* x, int64_t k, char* y, float factor, Zero... zero) {
  using V = typename E::Vec;
  using f32 = typename V::f32;
  const f32 vfactor = V::set1(factor);
  const auto run = [&](auto is_scaled) SBK_INLINE_LAMBDA {
    const auto read = [&](int64_t at)
                          SBK_INLINE_LAMBDA { return is_scaled ? V::mul(V::load(x + at), vfactor) : V::load(x + at); };
    const auto encode = [&](int64_t at)
                            SBK_INLINE_LAMBDA { E::encode_vector(y + at * E::value_bytes, read(at), zero...); };
    int64_t i = 0;
    for (; i + 4 * V::lanes <= k; i += 4 * V::lanes) {
      if constexpr (requires(const f32(&four)[4]) { E::encode_four(y, four, zero...); }) {
        const f32 four[4] = {read(i), read(i + V::lanes), read(i + 2 * V::lanes), read(i + 3 * V::lanes)};
        E::encode_four(y + i * E::value_bytes, four, zero...);
      } else {
        unroll<4>([&](auto v) SBK_INLINE_LAMBDA { encode(i + v * V::lanes); });
      }
    }
    for (; i + V::lanes <= k; i += V::lanes) encode(i);
    return i;
  };
  return factor == 1.0f ? run(std::false_type{}) : run(std::true_type{});
}

// Rows of x in bf16 or fp16. y may be x.
template <class E>
void encode_rounded(const EncodeArgs& p) {
  const int64_t padded = (p.k + E::per - 1) / E::per * E::per;
  for (int64_t r = 0; r < p.rows; r++) {
    const float* x = p.x + r * p.ldx;
    char* y = static_cast<char*>(p.y) + r * p.ldy * static_cast<int64_t>(sizeof(typename E::unit));
    const float factor = E::chunk != 0 ? p.factor : 1.0f;
    for (int64_t i = encode_vectors<E>(x, p.k, y, factor); i < padded; i++) {
      E::encode_value(y + i * E::value_bytes, i < p.k ? x[i] * factor : 0.0f);
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
    char* y = static_cast<char*>(p.y) + r * p.ldy * static_cast<int64_t>(sizeof(typename E::unit));
    // The greatest and the least, or 0. x * 0 is NaN for infinities and NaN, which a maximum may lose.
    f32 greatest[2] = {V::zero(), V::zero()}, least[2] = {V::zero(), V::zero()}, poison[2] = {V::zero(), V::zero()};
    float max = 0.0f, min = 0.0f, tail_poison = 0.0f;
    int64_t i = 0;
    const auto look = [&](int64_t at, int lane) SBK_INLINE_LAMBDA {
      const f32 v = V::load(x + at);
      greatest[lane] = V::max(v, greatest[lane]);
      least[lane] = V::min(v, least[lane]);
      poison[lane] = V::fma(v, V::zero(), poison[lane]);
    };
    for (; i + 2 * V::lanes <= p.k; i += 2 * V::lanes) look(i, 0), look(i + V::lanes, 1);
    for (; i + V::lanes <= p.k; i += V::lanes) look(i, 0);
    for (; i < p.k; i++) {
      max = x[i] > max ? x[i] : max;
      min = x[i] < min ? x[i] : min;
      tail_poison += x[i] * 0.0f;
    }
    const float vector_max = V::reduce_max(V::max(greatest[0], greatest[1]));
    const float vector_min = -V::reduce_max(V::sub(V::zero(), V::min(least[0], least[1])));
    max = vector_max > max ? vector_max : max;
    min = vector_min < min ? vector_min : min;
    const float half_span = 0.5f * max - 0.5f * min;  // the whole might overflow
    const float scale = half_span / 127.0f + (V::reduce_add(V::add(poison[0], poison[1])) + tail_poison);
    float inverse = 127.0f / half_span;
    if (!(inverse < __builtin_inff())) inverse = 0.0f;  // all of them 0, or as good as 0

    if (scale != scale) {  // it says it all; converting NaN or infinity to an integer is undefined
      p.quantization[r] = {scale, 0};
      for (i = 0; i < padded; i++) E::encode_value(y + i * E::value_bytes, 0);
      continue;
    }
    const auto rounded = [&](float v) SBK_INLINE_LAMBDA { return static_cast<int32_t>(__builtin_rintf(v * inverse)); };
    const int32_t zero = E::least == kSymmetric ? 0 : E::least - rounded(min);
    p.quantization[r] = {scale, zero};
    for (i = encode_vectors<E>(x, p.k, y, inverse, zero); i < padded; i++) {
      E::encode_value(y + i * E::value_bytes, (i < p.k ? rounded(x[i]) : 0) + zero);
    }
  }
}

}  // namespace
}  // namespace sbk
