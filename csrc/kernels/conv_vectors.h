// Blocks of several rows: every line that is read serves all rows of a group; included after one instruction set.
#pragma once

#include "kernels/conv.h"
#include "kernels/conv_pack.h"
#include "kernels/conv_store.h"
#include "simd/constant.h"
#include "simd/unroll.h"

namespace {

using sparsekit::ConvPanel;
using sparsekit::ConvVectors;

// Outputs whose lines are on their way to the caches while those before them are computed or stored.
constexpr int64_t kOutputsAhead = 4;

constexpr int kMostRows = kWidth == 16 ? sparsekit::kMostPanelRows : 6;
// The sums of four outputs leave registers for a line and two weights.
constexpr int kMostVectorRows = kWidth == 16 ? 7 : 3;

// kGroup rows from `row` on share every line that they read.
template <class Element, int kRows, int kGroup>
SPARSEKIT_INLINE void multiply_group(const float* values, const int32_t* lines, int64_t count, const ConvPanel& panel,
                                     const Targets<Element>& targets, int64_t row) {
  Vec sum[kGroup][kRows];
  SPARSEKIT_UNROLL
  for (int g = 0; g < kGroup; ++g) {
    if (row + kOutputsAhead + g < panel.out_rows) targets.prefetch(panel, row + kOutputsAhead + g);
    SPARSEKIT_UNROLL
    for (int j = 0; j < kRows; ++j) sum[g][j] = bias_of(panel, row + g);
  }
  constexpr int kPair = kGroup > 1 ? 2 : 1;
  for (int64_t p = 0; p < count; ++p) {
    const float* x = panel.lines + static_cast<int64_t>(lines[p]) * kWidth;
    const float* weights = values + p * kGroup;
    SPARSEKIT_UNROLL
    for (int g = 0; g < kGroup; g += kPair) {
      const Vec one = Simd::set1(weights[g]), other = Simd::set1(weights[g + kPair - 1]);
      SPARSEKIT_UNROLL
      for (int j = 0; j < kRows; ++j) {
        const Vec line = Simd::load(x + j * kWidth);
        sum[g][j] = Element::mac(one, line, sum[g][j]);
        if (kPair == 2) sum[g + kPair - 1][j] = Element::mac(other, line, sum[g + kPair - 1][j]);
      }
    }
  }
  SPARSEKIT_UNROLL
  for (int g = 0; g < kGroup; ++g) targets.template store<kRows>(panel, row + g, sum[g]);
}

template <class Element, int kRows>
void multiply_vectors_of(const ConvVectors& w, const ConvPanel& panel, int64_t begin, int64_t end) {
  const Targets<Element> targets(panel);
  for (int64_t block = begin; block < end; ++block) {
    const int64_t count = w.offsets[block + 1] - w.offsets[block];
    const int32_t* lines = w.lines + w.offsets[block];
    const float* values = w.values + w.offsets[block] * w.block_rows;
    const int64_t last = (block + 1) * w.block_rows < w.rows ? (block + 1) * w.block_rows : w.rows;
    for (int64_t row = block * w.block_rows; row < last;) {
      const int64_t group = sparsekit::conv_group(last - row);
      if (group == 4)
        multiply_group<Element, kRows, 4>(values, lines, count, panel, targets, row);
      else if (group == 2)
        multiply_group<Element, kRows, 2>(values, lines, count, panel, targets, row);
      else
        multiply_group<Element, kRows, 1>(values, lines, count, panel, targets, row);
      values += count * group;
      row += group;
    }
  }
}

template <class Element>
void multiply_vectors(const ConvVectors& w, const ConvPanel& panel, int64_t begin, int64_t end) {
  with_constant<kMostVectorRows>(panel.rows,
                                 [&](auto rows) { multiply_vectors_of<Element, rows>(w, panel, begin, end); });
}

}  // namespace
