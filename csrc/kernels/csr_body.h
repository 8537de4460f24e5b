// The CSR kernels, written once over `Simd`; each translation unit includes one instruction set before this file.
#pragma once

#include "kernels/csr.h"
#include "kernels/panel.h"
#include "simd/unroll.h"

namespace {

using sparsekit::CsrChunk;
using sparsekit::Product;
constexpr int kMostVectors = 4;  // vectors of tokens in a full panel

int panel_tokens(int64_t tokens) {
  const int64_t vectors = (tokens + kWidth - 1) / kWidth;
  return static_cast<int>(vectors > kMostVectors ? kMostVectors : vectors) * kWidth;
}

void pack(const Product& product, int64_t columns, int64_t first, int64_t tokens, float* panel) {
  pack_panel(product, columns, first, tokens, panel_tokens(tokens), panel);
}

// One row's entries of one tile against a panel of kVectors * kWidth tokens; `sum` is read and written.
template <int kVectors>
SPARSEKIT_INLINE void accumulate(const float* values, const uint16_t* indices, int count, const float* panel,
                                 float* sum) {
  constexpr int kTokens = kVectors * kWidth;
  // A narrow panel needs several sets of sums to hide the latency of the multiply-add; a full one fills it alone.
  constexpr int kChains = kVectors >= 3 ? 1 : 4 / kVectors;
  Vec chain[kChains][kVectors];
  SPARSEKIT_UNROLL
  for (int j = 0; j < kVectors; ++j) chain[0][j] = Simd::load(sum + j * kWidth);
  SPARSEKIT_UNROLL
  for (int c = 1; c < kChains; ++c) {
    SPARSEKIT_UNROLL
    for (int j = 0; j < kVectors; ++j) chain[c][j] = Simd::zero();
  }
  int p = 0;
  for (; p + kChains <= count; p += kChains) {
    SPARSEKIT_UNROLL
    for (int c = 0; c < kChains; ++c) {
      const float* x = panel + static_cast<int64_t>(indices[p + c]) * kTokens;
      const Vec weight = Simd::set1(values[p + c]);
      SPARSEKIT_UNROLL
      for (int j = 0; j < kVectors; ++j) chain[c][j] = Simd::fma(weight, Simd::load(x + j * kWidth), chain[c][j]);
    }
  }
  for (; p < count; ++p) {
    const float* x = panel + static_cast<int64_t>(indices[p]) * kTokens;
    const Vec weight = Simd::set1(values[p]);
    SPARSEKIT_UNROLL
    for (int j = 0; j < kVectors; ++j) chain[0][j] = Simd::fma(weight, Simd::load(x + j * kWidth), chain[0][j]);
  }
  SPARSEKIT_UNROLL
  for (int j = 0; j < kVectors; ++j) {
    Vec total = chain[0][j];
    SPARSEKIT_UNROLL
    for (int c = 1; c < kChains; ++c) total = Simd::add(total, chain[c][j]);
    Simd::store(sum + j * kWidth, total);
  }
}

template <int kVectors>
void accumulate_chunk(const CsrChunk& w, const Product& product, const float* panel, float* sums) {
  constexpr int kTokens = kVectors * kWidth;
  for (int64_t r = 0; r < w.rows; ++r) {
    const Vec start = Simd::set1(product.bias == nullptr ? 0.0f : product.bias[w.first_row + r]);
    SPARSEKIT_UNROLL
    for (int j = 0; j < kVectors; ++j) Simd::store(sums + r * kTokens + j * kWidth, start);
  }
  const float* values = w.values;
  const uint16_t* indices = w.indices;
  const uint16_t* counts = w.counts;
  for (int64_t t = 0; t < w.tiles; ++t) {
    const float* part = panel + t * w.tile_columns * kTokens;
    for (int64_t r = 0; r < w.rows; ++r) {
      const int count = *counts++;
      accumulate<kVectors>(values, indices, count, part, sums + r * kTokens);
      values += count;
      indices += count;
    }
  }
}

// Writes the transposed sums[r][m] to y[first + m][first_row + r].
void store_sums(const CsrChunk& w, const Product& product, int64_t rows, const float* sums, int64_t width,
                int64_t first, int64_t tokens) {
  for (int64_t m = 0; m < tokens; m += kWidth) {
    const int high = static_cast<int>(tokens - m < kWidth ? tokens - m : kWidth);
    for (int64_t r = 0; r < w.rows; r += kWidth) {
      const float* from = sums + r * width + m;
      float* to = product.y + (first + m) * rows + w.first_row + r;
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

void multiply_chunk(const CsrChunk& w, const Product& product, int64_t rows, const float* panel, int64_t first,
                    int64_t tokens, float* sums) {
  const int width = panel_tokens(tokens);
  switch (width / kWidth) {
    case 1: accumulate_chunk<1>(w, product, panel, sums); break;
    case 2: accumulate_chunk<2>(w, product, panel, sums); break;
    case 3: accumulate_chunk<3>(w, product, panel, sums); break;
    default: accumulate_chunk<kMostVectors>(w, product, panel, sums); break;
  }
  store_sums(w, product, rows, sums, width, first, tokens);
}

constexpr sparsekit::CsrKernels kCsrKernels = {kMostVectors * kWidth, panel_tokens, pack, multiply_chunk};

}  // namespace
