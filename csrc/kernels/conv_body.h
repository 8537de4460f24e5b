// The convolution kernels, written once over `Simd`; each translation unit includes one instruction set before this.
#pragma once

#include "kernels/conv.h"
#include "kernels/conv_vectors.h"
#include "simd/unroll.h"

namespace {

using sparsekit::ConvEntries;
using sparsekit::ConvSlices;

// Adds one row's weights of one tile against a panel of kRows rows to `sum`.
template <int kRows>
SPARSEKIT_INLINE void add_entries(const float* values, const uint16_t* lines, int count, const float* panel, Vec* sum) {
  // A low panel needs several sets of sums to hide the latency of the multiply-add; a high one fills it alone.
  constexpr int kChains = kRows >= 3 ? 1 : 4 / kRows;
  Vec chain[kChains][kRows];
  SPARSEKIT_UNROLL
  for (int j = 0; j < kRows; ++j) chain[0][j] = sum[j];
  SPARSEKIT_UNROLL
  for (int c = 1; c < kChains; ++c) {
    SPARSEKIT_UNROLL
    for (int j = 0; j < kRows; ++j) chain[c][j] = Simd::zero();
  }
  const auto add = [&](int p, Vec* into) {
    const float* x = panel + static_cast<int64_t>(lines[p]) * kWidth;
    const Vec weight = Simd::set1(values[p]);
    SPARSEKIT_UNROLL
    for (int j = 0; j < kRows; ++j) into[j] = Simd::fma(weight, Simd::load(x + j * kWidth), into[j]);
  };
  int p = 0;
  for (; p + kChains <= count; p += kChains) {
    SPARSEKIT_UNROLL
    for (int c = 0; c < kChains; ++c) add(p + c, chain[c]);
  }
  for (; p < count; ++p) add(p, chain[0]);
  SPARSEKIT_UNROLL
  for (int j = 0; j < kRows; ++j) {
    sum[j] = chain[0][j];
    SPARSEKIT_UNROLL
    for (int c = 1; c < kChains; ++c) sum[j] = Simd::add(sum[j], chain[c][j]);
  }
}

// The bias of each row of a chunk, as the first value of its sums.
template <int kRows>
void start_sums(const ConvPanel& panel, int64_t first_row, int64_t rows, float* sums) {
  for (int64_t r = 0; r < rows; ++r) {
    const Vec start = bias_of(panel, first_row + r);
    SPARSEKIT_UNROLL
    for (int j = 0; j < kRows; ++j) Simd::store(sums + (r * kRows + j) * kWidth, start);
  }
}

template <int kRows>
void store_sums(const Targets<Fp32>& targets, const ConvPanel& panel, int64_t first_row, int64_t rows,
                const float* sums) {
  for (int64_t r = 0; r < rows && r < kOutputsAhead; ++r) targets.prefetch(panel, first_row + r);
  for (int64_t r = 0; r < rows; ++r) {
    if (r + kOutputsAhead < rows) targets.prefetch(panel, first_row + r + kOutputsAhead);
    Vec sum[kRows];
    SPARSEKIT_UNROLL
    for (int j = 0; j < kRows; ++j) sum[j] = Simd::load(sums + (r * kRows + j) * kWidth);
    targets.store<kRows>(panel, first_row + r, sum);
  }
}

// A row's sums are in `sums` between tiles only: they start as the bias, and after the last tile they are results.
template <int kRows>
void multiply_entries_of(const ConvEntries& w, const ConvPanel& panel, float* sums) {
  const Targets<Fp32> targets(panel);
  const float* values = w.values;
  const uint16_t* lines = w.lines;
  const uint16_t* counts = w.counts;
  const int64_t rows = w.rows, first_row = w.first_row;
  for (int64_t t = 0; t < w.tiles; ++t) {
    const float* part = panel.lines + t * w.tile_channels * panel.layout->channel_lines * kWidth;
    const bool first = t == 0, last = t + 1 == w.tiles;
    for (int64_t r = 0; r < rows; ++r) {
      const int count = *counts++;
      if (last && r + kOutputsAhead < rows) targets.prefetch(panel, first_row + r + kOutputsAhead);
      float* at = sums + r * kRows * kWidth;
      Vec sum[kRows];
      if (first) {
        const Vec start = bias_of(panel, first_row + r);
        SPARSEKIT_UNROLL
        for (int j = 0; j < kRows; ++j) sum[j] = start;
      } else {
        SPARSEKIT_UNROLL
        for (int j = 0; j < kRows; ++j) sum[j] = Simd::load(at + j * kWidth);
      }
      add_entries<kRows>(values, lines, count, part, sum);
      if (last) {
        targets.store<kRows>(panel, first_row + r, sum);
      } else {
        SPARSEKIT_UNROLL
        for (int j = 0; j < kRows; ++j) Simd::store(at + j * kWidth, sum[j]);
      }
      values += count;
      lines += count;
    }
  }
}

// Adds one kernel of 3 x 3 weights for each of kOutputs outputs that read the same channel: each input line is loaded
// once for them and for the output rows that read it. kStep is the stride.
template <int kRows, int kStep, int kOutputs>
SPARSEKIT_INLINE void add_slices(const float* weights, const float* x, Vec (*sum)[kRows]) {
  constexpr int kPhases = kStep == 1 ? 1 : 2;  // of the input rows that the three taps of a column read
  constexpr int kPhaseLines = kRows + 2 / kStep;
  SPARSEKIT_UNROLL
  for (int c = 0; c < 3; ++c) {
    const float* column = x + c * kPhases * kPhaseLines * kWidth;
    // Line i is the input row that the first tap of output row i reads; the third reads the same, 2 rows later.
    Vec line[kPhaseLines];
    SPARSEKIT_UNROLL
    for (int i = 0; i < kPhaseLines; ++i) {
      line[i] = Simd::load(column + i * kWidth);
      Simd::hold(line[i]);
    }
    const auto add = [&](int tap, const Vec* read) SPARSEKIT_INLINED {
      SPARSEKIT_UNROLL
      for (int o = 0; o < kOutputs; ++o) {
        const Vec weight = Simd::set1(weights[9 * o + 3 * tap + c]);
        SPARSEKIT_UNROLL
        for (int j = 0; j < kRows; ++j) sum[o][j] = Simd::fma(weight, read[j], sum[o][j]);
      }
    };
    add(0, line);
    add(2, line + 2 / kStep);
    if (kStep > 1) {
      SPARSEKIT_UNROLL
      for (int j = 0; j < kRows; ++j) line[j] = Simd::load(column + (kPhaseLines + j) * kWidth);
    }
    add(1, kStep == 1 ? line + 1 : line);
  }
}

// Row by row: the sums stay in registers.
template <int kRows>
void multiply_slice_rows(const ConvSlices& w, const ConvPanel& panel, int64_t begin, int64_t end) {
  const Targets<Fp32> targets(panel);
  for (int64_t row = begin; row < end; ++row) {
    if (row + 2 < end) targets.prefetch(panel, row + 2);
    const Vec start = bias_of(panel, row);
    Vec sum[1][kRows];
    SPARSEKIT_UNROLL
    for (int j = 0; j < kRows; ++j) sum[0][j] = start;
    for (int64_t p = w.offsets[row]; p < w.offsets[row + 1]; ++p)
      add_slices<kRows, 1, 1>(w.values + p * 9, panel.lines + static_cast<int64_t>(w.lines[p]) * kWidth, sum);
    targets.store<kRows>(panel, row, sum[0]);
  }
}

// Adds the kernels of kOutputs rows of a chunk, which read the same channel, to their sums.
template <int kRows, int kOutputs>
SPARSEKIT_INLINE void add_to_rows(const float* weights, const float* x, const uint16_t* rows, float* sums) {
  float* at[kOutputs];
  Vec sum[kOutputs][kRows];
  SPARSEKIT_UNROLL
  for (int o = 0; o < kOutputs; ++o) {
    at[o] = sums + rows[o] * kRows * kWidth;
    SPARSEKIT_UNROLL
    for (int j = 0; j < kRows; ++j) sum[o][j] = Simd::load(at[o] + j * kWidth);
  }
  add_slices<kRows, 2, kOutputs>(weights, x, sum);
  SPARSEKIT_UNROLL
  for (int o = 0; o < kOutputs; ++o) {
    SPARSEKIT_UNROLL
    for (int j = 0; j < kRows; ++j) Simd::store(at[o] + j * kWidth, sum[o][j]);
  }
}

// Channel by channel: the sums of all rows of a chunk stay in the first-level cache. Rows are taken two at a time where
// registers hold the sums of two.
template <int kRows>
void multiply_slice_chunks(const ConvSlices& w, const ConvPanel& panel, int64_t begin, int64_t end, float* sums) {
  const Targets<Fp32> targets(panel);
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const int64_t first = chunk * w.chunk_rows;
    const int64_t rows = w.rows - first < w.chunk_rows ? w.rows - first : w.chunk_rows;
    start_sums<kRows>(panel, first, rows, sums);
    const float* weights = w.values + w.offsets[chunk] * 9;
    const int32_t* lines = w.lines + w.offsets[chunk];
    const uint16_t* row = w.row + w.offsets[chunk];
    for (int64_t left = w.offsets[chunk + 1] - w.offsets[chunk]; left > 0;) {
      const float* x = panel.lines + static_cast<int64_t>(*lines) * kWidth;
      const bool two = kWidth == 16 && left > 1 && lines[0] == lines[1];
      if (two)
        add_to_rows<kRows, 2>(weights, x, row, sums);
      else
        add_to_rows<kRows, 1>(weights, x, row, sums);
      const int64_t done = two ? 2 : 1;
      weights += done * 9, lines += done, row += done, left -= done;
    }
    store_sums<kRows>(targets, panel, first, rows, sums);
  }
}

void multiply_entries(const ConvEntries& w, const ConvPanel& panel, float* sums) {
  with_constant<kMostRows>(panel.rows, [&](auto rows) { multiply_entries_of<rows>(w, panel, sums); });
}

void multiply_slices(const ConvSlices& w, const ConvPanel& panel, int64_t begin, int64_t end, float* sums) {
  with_constant<kMostRows>(panel.layout->rows, [&](auto rows) {
    if (panel.layout->shape.stride[0] == 1)
      multiply_slice_rows<rows>(w, panel, begin, end);
    else
      multiply_slice_chunks<rows>(w, panel, begin, end, sums);
  });
}

constexpr sparsekit::ConvKernels kConvKernels = {kWidth,     kMostRows,        kMostVectorRows, Fp32::kChannels,
                                                 pack<Fp32>, multiply_entries, multiply_slices, multiply_vectors<Fp32>};

}  // namespace
