// CSR against panels, written once over `Simd`; each translation unit includes one instruction set before this file.
#pragma once

#include <type_traits>

#include "kernels/csr_panels.h"
#include "kernels/panel.h"
#include "simd/unroll.h"

namespace {

using sparsekit::CsrChunk;
using sparsekit::CsrPanel;
using sparsekit::CsrRuns;
using sparsekit::Product;

// A narrow panel needs several sets of sums to hide the latency of the multiply-add; a wide one fills it alone.
template <int kVectors>
constexpr int kChains = kVectors >= 3 ? 1 : 4 / kVectors;

template <int kVectors>
using Sums = Vec[kChains<kVectors>][kVectors];

// Entries that a narrow panel fetches ahead.
constexpr int kAhead = 512;
// Entries of one step of fetching: a line of values.
constexpr int kFetched = 16;

// `count` columns that kRows rows have, the values of a column side by side.
template <int kVectors, int kRows>
SPARSEKIT_INLINE void add_run(const float* values, const uint16_t* columns, int count, const float* panel,
                              Sums<kVectors>* sums) {
  const auto add = [&](int p, int chain) {
    const float* x = panel + static_cast<int64_t>(columns[p]) * (kVectors * kWidth);
    Vec weight[kRows];
    SPARSEKIT_UNROLL
    for (int r = 0; r < kRows; ++r) weight[r] = Simd::set1(values[p * kRows + r]);
    SPARSEKIT_UNROLL
    for (int j = 0; j < kVectors; ++j) {
      Vec line = Simd::load(x + j * kWidth);
      if (kRows > 1) Simd::hold(line);
      SPARSEKIT_UNROLL
      for (int r = 0; r < kRows; ++r) sums[r][chain][j] = Simd::fma(weight[r], line, sums[r][chain][j]);
    }
  };
  constexpr int kSet = kChains<kVectors>;
  int p = 0;
  if (kVectors <= 2) {
    // A narrow panel passes over the weight faster than the processor fetches ahead on its own.
    for (; p + kFetched <= count; p += kFetched) {
      for (int line = 0; line < kRows; ++line) Simd::prefetch(values + p * kRows + kAhead + line * kFetched);
      Simd::prefetch(columns + p + kAhead);
      SPARSEKIT_UNROLL
      for (int i = 0; i < kFetched; ++i) add(p + i, i % kSet);
    }
  }
  for (; p + kSet <= count; p += kSet) {
    SPARSEKIT_UNROLL
    for (int c = 0; c < kSet; ++c) add(p + c, c);
  }
  if (kSet > 1)
    for (; p < count; ++p) add(p, 0);
}

// What two rows hold in one tile; `at` is where their sums lie, row by row.
template <int kVectors>
SPARSEKIT_INLINE void add_runs(const CsrRuns& runs, const float*& values, const uint16_t*& columns, const float* panel,
                               const float* starts, float* at) {
  Sums<kVectors> sums[2];
  SPARSEKIT_UNROLL
  for (int r = 0; r < 2; ++r) {
    SPARSEKIT_UNROLL
    for (int j = 0; j < kVectors; ++j)
      sums[r][0][j] = starts == nullptr ? Simd::load(at + (r * kVectors + j) * kWidth) : Simd::set1(starts[r]);
    SPARSEKIT_UNROLL
    for (int c = 1; c < kChains<kVectors>; ++c) {
      SPARSEKIT_UNROLL
      for (int j = 0; j < kVectors; ++j) sums[r][c][j] = Simd::zero();
    }
  }
  SPARSEKIT_UNROLL
  for (int r = 0; r < 2; ++r) {
    add_run<kVectors, 1>(values, columns, runs.entries[r], panel, sums + r);
    values += runs.entries[r];
    columns += runs.entries[r];
  }
  add_run<kVectors, 2>(values, columns, runs.shared, panel, sums);
  values += 2 * runs.shared;
  columns += runs.shared;
  SPARSEKIT_UNROLL
  for (int r = 0; r < 2; ++r) {
    SPARSEKIT_UNROLL
    for (int j = 0; j < kVectors; ++j) {
      Vec total = sums[r][0][j];
      SPARSEKIT_UNROLL
      for (int c = 1; c < kChains<kVectors>; ++c) total = Simd::add(total, sums[r][c][j]);
      Simd::store(at + (r * kVectors + j) * kWidth, total);
    }
  }
}

template <int kVectors>
void multiply_of(const CsrChunk& w, const float* panel, const float* bias, bool start, float* sums) {
  const float* values = w.values;
  const uint16_t* columns = w.columns;
  const CsrRuns* runs = w.runs;
  for (int64_t t = 0; t < w.tiles; ++t) {
    for (int64_t r = 0; r < w.rows; r += 2) {
      float starts[2] = {0.0f, 0.0f};
      const bool first = start && t == 0;
      if (first && bias != nullptr) {
        starts[0] = bias[w.first_row + r];
        starts[1] = r + 1 < w.rows ? bias[w.first_row + r + 1] : 0.0f;
      }
      add_runs<kVectors>(*runs++, values, columns, panel, first ? starts : nullptr, sums + r * kVectors * kWidth);
    }
    panel += w.tile_columns * kVectors * kWidth;
  }
}

// Calls body(constant) with the constant that `value`, in [1, most], is at run time.
template <int kMost, class Body>
void with_constant(int value, Body body) {
  if constexpr (kMost > 1) {
    if (value < kMost) return with_constant<kMost - 1>(value, body);
  }
  body(std::integral_constant<int, kMost>());
}

void multiply(const CsrChunk& w, const CsrPanel& panel, const float* bias, bool start, float* sums) {
  with_constant<sparsekit::kMostCsrVectors>(panel.vectors,
                                            [&](auto vectors) { multiply_of<vectors>(w, panel.x, bias, start, sums); });
}

// Writes the transposed sums.
void store(const CsrChunk& w, const CsrPanel& panel, const Product& product, int64_t rows, const float* sums) {
  const int64_t width = panel.vectors * kWidth;
  for (int64_t m = 0; m < panel.tokens; m += kWidth) {
    const int high = static_cast<int>(panel.tokens - m < kWidth ? panel.tokens - m : kWidth);
    for (int64_t r = 0; r < w.rows; r += kWidth) {
      const float* from = sums + r * width + m;
      float* to = product.y + (panel.first + m) * rows + w.first_row + r;
      const int wide = static_cast<int>(w.rows - r < kWidth ? w.rows - r : kWidth);
      if (high == kWidth && wide == kWidth) {
        Simd::transpose(from, width, to, rows);
        continue;
      }
      alignas(64) float out[kWidth * kWidth];
      Simd::transpose(from, width, out, kWidth);
      for (int i = 0; i < high; ++i) Simd::store_first(to + i * rows, Simd::load(out + i * kWidth), wide);
    }
  }
}

void pack(const Product& product, int64_t column, int64_t columns, const CsrPanel& panel, float* to) {
  Product part = product;
  part.x += column;
  pack_panel(part, columns, panel.first, panel.tokens, panel.vectors * kWidth, to);
}

constexpr sparsekit::CsrPanelsKernels kCsrPanelsKernels = {kWidth, pack, multiply, store};

}  // namespace
