// The block CSR kernel, written once over `Simd`: vectors run along a block's outputs, activations are broadcast.
#pragma once

#include "kernels/block_csr.h"
#include "kernels/panel.h"

namespace {

using sparsekit::BlockCsrView;
using sparsekit::Product;

// Where the activations of one group of tokens lie: token t, input k at x[k * input_stride + t * token_stride].
struct Activations {
  const float* x;
  int64_t input_stride, token_stride;
  float* y;       // first token, first output
  int64_t tokens;  // to store
};

// The outputs [lane, lane + kVectors * kWidth) of one block row.
struct Lanes {
  const float* values;  // first block, first output
  const int32_t* indices;
  int64_t blocks;
  int last;        // lanes of the last vector that lie inside the block
  int stored;      // lanes of the last vector that lie inside the matrix
  const float* bias;
};

// y of kTokens tokens and kVectors * kWidth outputs. kChains independent sums hide the latency of the multiply-add
// where tokens are few; kRagged reads the last vector with a mask.
template <int kVectors, int kTokens, int kChains, bool kRagged>
void multiply_tile(const BlockCsrView& w, const Lanes& lanes, const Activations& a) {
  Vec sum[kChains][kTokens][kVectors];
  for (int t = 0; t < kTokens; ++t)
    for (int v = 0; v < kVectors; ++v)
      for (int c = 0; c < kChains; ++c) sum[c][t][v] = Simd::zero();
  const auto step = [&](const float* weights, const float* x, int chain) {
    Vec weight[kVectors];
    for (int v = 0; v < kVectors; ++v)
      weight[v] = kRagged && v + 1 == kVectors ? Simd::load_first(weights + v * kWidth, lanes.last)
                                               : Simd::loadu(weights + v * kWidth);
    for (int t = 0; t < kTokens; ++t) {
      const Vec activation = Simd::set1(x[t * a.token_stride]);
      for (int v = 0; v < kVectors; ++v) sum[chain][t][v] = Simd::fma(weight[v], activation, sum[chain][t][v]);
    }
  };
  for (int64_t b = 0; b < lanes.blocks; ++b) {
    const float* weights = lanes.values + b * w.block_rows * w.block_columns;
    const int64_t column = lanes.indices[b] * w.block_columns;
    const float* x = a.x + column * a.input_stride;
    const int64_t inputs = w.columns - column < w.block_columns ? w.columns - column : w.block_columns;
    int64_t k = 0;
    for (; k + kChains <= inputs; k += kChains)
      for (int c = 0; c < kChains; ++c)
        step(weights + (k + c) * w.block_rows, x + (k + c) * a.input_stride, c);
    for (; k < inputs; ++k) step(weights + k * w.block_rows, x + k * a.input_stride, 0);
  }
  for (int v = 0; v < kVectors; ++v) {
    const int stored = v + 1 == kVectors ? lanes.stored : kWidth;
    const Vec bias = lanes.bias == nullptr ? Simd::zero() : Simd::load_first(lanes.bias + v * kWidth, stored);
    for (int t = 0; t < kTokens; ++t) {
      Vec total = sum[0][t][v];
      for (int c = 1; c < kChains; ++c) total = Simd::add(total, sum[c][t][v]);
      if (t < a.tokens) Simd::store_first(a.y + t * w.rows + v * kWidth, Simd::add(total, bias), stored);
    }
  }
}

// Tokens of one register tile: as many sums as fit in the registers beside weights and one activation.
template <int kVectors>
constexpr int tile_tokens() {
  constexpr int kSums = kWidth == 16 ? 16 : 8;
  return kSums / kVectors;
}

template <int kVectors, bool kRagged>
void multiply_tokens(const BlockCsrView& w, const Product& product, const Lanes& lanes, const float* panels,
                     int64_t packed, int64_t first, int64_t tokens, int64_t output) {
  constexpr int kTokens = tile_tokens<kVectors>() < kWidth ? tile_tokens<kVectors>() : kWidth;
  int64_t t = 0;
  for (; t < packed; t += kTokens) {
    const float* x = panels + t / kWidth * kWidth * w.columns + t % kWidth;
    const int64_t stored = tokens - t < kTokens ? tokens - t : kTokens;
    if (stored <= 0) return;
    multiply_tile<kVectors, kTokens, 1, kRagged>(w, lanes, {x, kWidth, 1, product.y + (first + t) * w.rows + output, stored});
  }
  const auto in_place = [&](int64_t at, int count) {
    return Activations{product.x + (first + at) * product.x_stride, 1, product.x_stride,
                       product.y + (first + at) * w.rows + output, count};
  };
  for (; tokens - t >= 4; t += 4) multiply_tile<kVectors, 4, 2, kRagged>(w, lanes, in_place(t, 4));
  for (; tokens - t >= 2; t += 2) multiply_tile<kVectors, 2, 2, kRagged>(w, lanes, in_place(t, 2));
  if (t < tokens) multiply_tile<kVectors, 1, 4, kRagged>(w, lanes, in_place(t, 1));
}

void multiply_block_row(const BlockCsrView& w, const Product& product, const float* panels, int64_t packed,
                        int64_t first, int64_t tokens, int64_t row) {
  const int64_t origin = row * w.block_rows;
  const int64_t inside = w.rows - origin < w.block_rows ? w.rows - origin : w.block_rows;
  const int64_t offset = w.offsets[row];
  for (int64_t lane = 0; lane < inside;) {
    const int vectors = inside - lane > kWidth ? 2 : 1;
    const int64_t last = lane + (vectors - 1) * kWidth;
    const auto clip = [&](int64_t size) { return static_cast<int>(size - last < kWidth ? size - last : kWidth); };
    const Lanes lanes = {w.values + offset * w.block_rows * w.block_columns + lane,
                         w.indices + offset,
                         w.offsets[row + 1] - offset,
                         clip(w.block_rows),
                         clip(inside),
                         product.bias == nullptr ? nullptr : product.bias + origin + lane};
    const bool ragged = lanes.last < kWidth;
    const int64_t output = origin + lane;
    if (vectors == 2 && ragged)
      multiply_tokens<2, true>(w, product, lanes, panels, packed, first, tokens, output);
    else if (vectors == 2)
      multiply_tokens<2, false>(w, product, lanes, panels, packed, first, tokens, output);
    else if (ragged)
      multiply_tokens<1, true>(w, product, lanes, panels, packed, first, tokens, output);
    else
      multiply_tokens<1, false>(w, product, lanes, panels, packed, first, tokens, output);
    lane += vectors * kWidth;
  }
}

void multiply(const BlockCsrView& w, const Product& product, const float* panels, int64_t packed, int64_t first,
              int64_t tokens, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row)
    multiply_block_row(w, product, panels, packed, first, tokens, row);
}

void pack(const Product& product, int64_t columns, int64_t first, int64_t tokens, float* panel) {
  pack_panel(product, columns, first, tokens, kWidth, panel);
}

constexpr sparsekit::BlockCsrKernels kBlockCsrKernels = {kWidth, pack, multiply};

}  // namespace
