// KernelTable::conv against the oracle.
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "ops/packed.h"
#include "support/check.h"
#include "support/guarded.h"
#include "support/reference.h"
#include "support/shapes.h"

namespace {

using sbk::Activation;
using namespace test;

enum class Residual { none, separate, aliased };

struct Case {
  int64_t rows, n, k;
  bool bias;
  Residual residual;
  Activation activation;
  int64_t gap;  // between rows
  Flush flush;

  std::string describe() const {
    return text("rows=", rows, " n=", n, " k=", k, " bias=", bias, " residual=", static_cast<int>(residual),
                " activation=", static_cast<int>(activation), " gap=", gap, " flush=", static_cast<int>(flush));
  }
};

// The packed values of a weight [n][k], flush with a guard page: a section of ops/packed.h without its header. There
// is no section of an empty weight; the kernels allow it.
void pack_into(const sbk::KernelTable& table, const float* w, int64_t n, int64_t k, Buffer& panels) {
  if (panels.size() == 0) return;
  const sbk::Weight weight{w, sbk::WeightType::float32, n, k, 1};
  Buffer section(sbk::packed_bytes(table, weight, 0) / static_cast<int64_t>(sizeof(float)), Flush::end, 64);
  sbk::pack(table, weight, 0, section.data(), sbk::serial());
  const auto* header = reinterpret_cast<const sbk::PackedHeader*>(section.data());
  std::memcpy(panels.data(), header->values(), panels.size() * sizeof(float));
  panels.freeze();
}

void run(const sbk::KernelTable& table, const Case& c) {
  const Context where([&] { return c.describe(); });
  Random random(static_cast<uint64_t>(c.rows * 1000003 + c.n * 1009 + c.k));
  Matrix x(c.rows, c.k, c.k + c.gap, c.flush), w(c.n, c.k, c.k, c.flush), bias(1, c.n, c.n, c.flush);
  Matrix residual(c.rows, c.n, c.n + 2 * c.gap, c.flush), y(c.rows, c.n, c.n + c.gap, c.flush);
  x.fill(random).freeze(), w.fill(random).freeze(), bias.fill(random).freeze(), residual.fill(random).freeze();
  Buffer panels(round_up(c.n, table.lanes) * c.k, c.flush);
  pack_into(table, w.data(), c.n, c.k, panels);

  const bool aliased = c.residual == Residual::aliased;
  if (aliased) y.fill_from(residual);
  table.conv({.x = x.data(),
              .ldx = x.stride(),
              .panels = panels.data(),
              .bias = c.bias ? bias.data() : nullptr,
              .residual = c.residual == Residual::none ? nullptr
                          : aliased                    ? y.data()
                                                       : residual.data(),
              .ldr = aliased ? y.stride() : residual.stride(),
              .y = y.data(),
              .ldy = y.stride(),
              .rows = c.rows,
              .k = c.k,
              .n = c.n,
              .activation = c.activation});

  const ConvReference reference{w.data(), c.n, c.k, 1, c.bias ? bias.data() : nullptr, c.activation};
  const Reals added(residual);
  check_close(y, reference(Reals(x), c.residual == Residual::none ? nullptr : &added));
}

constexpr Activation kActivations[] = {Activation::none, Activation::gelu, Activation::gelu_tanh, Activation::relu};

// Every allowed combination of options.
template <class F>
void for_each_option(F f) {
  for (const bool bias : {false, true}) {
    for (const Activation a : kActivations) f(bias, Residual::none, a);
    f(bias, Residual::separate, Activation::none);
    f(bias, Residual::aliased, Activation::none);
  }
}

TEST(remainders_in_every_dimension) {
  std::vector<Case> options;
  for_each_option(
      [&](bool bias, Residual r, Activation a) { options.push_back({0, 0, 0, bias, r, a, 0, Flush::end}); });
  size_t next = 0;
  for (const int64_t rows : row_sizes(table)) {
    for (const int64_t n : column_sizes(table)) {
      for (const int64_t k : {1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 33}) {
        for (const Flush flush : kBothEnds) {
          // 12 options and 13 values of k: all meet all.
          Case c = options[next++ % options.size()];
          c.rows = rows, c.n = n, c.k = k, c.flush = flush, c.gap = static_cast<int64_t>(next / 2 % 3) * 3;
          run(table, c);
        }
      }
    }
  }
}

TEST(every_option_on_every_kind_of_tile) {
  for (const int64_t rows : {int64_t{1}, int64_t{table.tile_rows}, int64_t{table.tile_rows} + 1}) {
    for (const int64_t n : {1, table.lanes, table.lanes + 1, table.lanes * table.tile_vectors + 1}) {
      for (const int64_t k : {1, 4, 6}) {
        for (const Flush flush : kBothEnds) {
          for_each_option([&](bool bias, Residual residual, Activation activation) {
            run(table, {rows, n, k, bias, residual, activation, 1, flush});
          });
        }
      }
    }
  }
}

TEST(sizes_of_real_networks) {
  run(table, {37, 192, 192, true, Residual::none, Activation::none, 576, Flush::end});
  run(table, {19, 768, 192, true, Residual::none, Activation::gelu, 0, Flush::end});
  run(table, {19, 192, 768, true, Residual::separate, Activation::none, 0, Flush::start});
  run(table, {9, 384, 1536, true, Residual::aliased, Activation::none, 0, Flush::end});
}

TEST(zero_sizes_write_nothing) {
  for (const Flush flush : kBothEnds) {
    run(table, {0, 5, 3, true, Residual::none, Activation::gelu, 0, flush});
    run(table, {3, 0, 4, true, Residual::none, Activation::none, 2, flush});
    // No products: the bias alone.
    run(table, {3, 5, 0, true, Residual::separate, Activation::none, 2, flush});
  }
}

// The contract: "a result depends on the values alone, never on how rows are split between calls".
TEST(rows_are_independent_of_each_other) {
  const int64_t rows = 2 * table.tile_rows + 1, n = (table.tile_vectors + 1) * table.lanes + 1, k = 37;
  Random random(1);
  Matrix x(rows, k, k, Flush::end), w(n, k, k, Flush::end), bias(1, n, n, Flush::end);
  x.fill(random), w.fill(random), bias.fill(random);
  Matrix whole(rows, n, n, Flush::end), split(rows, n, n, Flush::end);
  Buffer panels(round_up(n, table.lanes) * k, Flush::end);
  pack_into(table, w.data(), n, k, panels);
  sbk::ConvArgs args{x.data(),     k, panels.data(), bias.data(), nullptr, 0,
                     whole.data(), n, rows,          k,           n,       Activation::gelu};
  table.conv(args);
  for (int64_t first = 0, step = 1; first < rows; first += step, step = step % 3 + 1) {
    args.x = x.data() + first * k, args.y = split.data() + first * n, args.rows = std::min(step, rows - first);
    table.conv(args);
  }
  CHECK(std::memcmp(whole.data(), split.data(), rows * n * sizeof(float)) == 0);
}

TEST(special_values_poison_exactly_their_row) {
  const float special[] = {std::numeric_limits<float>::quiet_NaN(), INFINITY, -INFINITY};
  const int64_t rows = table.tile_rows + 2, n = table.lanes * table.tile_vectors + 3;
  for (const int64_t k : {1, 5, 8}) {
    for (const Activation activation : kActivations) {
      for (const float value : special) {
        for (int64_t bad = 0; bad < rows; bad++) {
          const Context where([&] { return text("k=", k, " value=", value, " in row ", bad); });
          Random random(7);
          Matrix x(rows, k, k, Flush::end), w(n, k, k, Flush::end), y(rows, n, n, Flush::end);
          x.fill(random), w.fill(random);
          x.at(bad, k - 1) = value;
          Buffer panels(round_up(n, table.lanes) * k, Flush::end);
          pack_into(table, w.data(), n, k, panels);
          table.conv({x.data(), k, panels.data(), nullptr, nullptr, 0, y.data(), n, rows, k, n, activation});
          check_close(y, ConvReference{w.data(), n, k, 1, nullptr, activation}(Reals(x)));
        }
      }
    }
  }
}

// A NaN in a weight, a bias or a residual reaches its column or element and nothing else.
TEST(special_parameters_reach_their_column) {
  const int64_t rows = table.tile_rows + 1, n = table.lanes + 2, k = 3;
  for (int64_t bad = 0; bad < n; bad++) {
    const Context where([&] { return text("column ", bad); });
    Random random(8);
    Matrix x(rows, k, k, Flush::end), w(n, k, k, Flush::end), bias(1, n, n, Flush::end),
        residual(rows, n, n, Flush::end);
    Matrix y(rows, n, n, Flush::end);
    x.fill(random), w.fill(random), bias.fill(random), residual.fill(random);
    w.at(bad, 1) = std::numeric_limits<float>::quiet_NaN();
    bias.at(0, (bad + 1) % n) = INFINITY;
    residual.at(rows - 1, (bad + 2) % n) = -INFINITY;
    Buffer panels(round_up(n, table.lanes) * k, Flush::end);
    pack_into(table, w.data(), n, k, panels);
    table.conv(
        {x.data(), k, panels.data(), bias.data(), residual.data(), n, y.data(), n, rows, k, n, Activation::none});
    const Reals added(residual);
    check_close(y, ConvReference{w.data(), n, k, 1, bias.data()}(Reals(x), &added));
  }
}

}  // namespace
