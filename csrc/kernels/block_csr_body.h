// The block CSR kernel, written once over `Simd`: vectors run along a block's outputs, activations are broadcast.
#pragma once

#include "kernels/block_csr.h"
#include "kernels/panel.h"
#include "simd/unroll.h"

namespace {

using sparsekit::BlockCsrView;
using sparsekit::Product;

// The activations of one group of tokens, read in place, or from a packed panel: there token t, input k lie at
// x[k * kWidth + t].
struct Activations {
  const float* x;
  int64_t x_stride;  // between tokens that are read in place
  float* y;          // first token, first output
  int64_t tokens;    // to store
};

// Some tokens: a packed panel of at most kWidth, or any number to be read from x in place.
struct Tokens {
  const float* panel;  // or null
  const float* x;
  int64_t x_stride;
  float* y;
  int64_t count;
};

// The outputs [lane, lane + kVectors * kWidth) of one block row.
struct Lanes {
  const float* values;  // first block, first output
  const int32_t* indices;
  int64_t blocks;
  int last;    // lanes of the last vector that lie inside the block
  int stored;  // lanes of the last vector that lie inside the matrix
  const float* bias;
};

// One input: its weights times the activations of some tokens.
template <int kVectors, int kTokens, bool kRagged>
SPARSEKIT_INLINE void add_input(const float* weights, int last, const float* x, int64_t token_stride,
                                Vec (&sum)[kTokens][kVectors]) {
  Vec weight[kVectors];
  SPARSEKIT_UNROLL
  for (int v = 0; v < kVectors; ++v)
    weight[v] =
        kRagged && v + 1 == kVectors ? Simd::load_first(weights + v * kWidth, last) : Simd::loadu(weights + v * kWidth);
  SPARSEKIT_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    const Vec activation = Simd::set1(x[t * token_stride]);
    SPARSEKIT_UNROLL
    for (int v = 0; v < kVectors; ++v) sum[t][v] = Simd::fma(weight[v], activation, sum[t][v]);
  }
}

// y of kTokens tokens and kVectors * kWidth outputs. kChains independent sums hide the latency of the multiply-add
// where tokens are few; kRagged reads the last vector with a mask.
template <int kVectors, int kTokens, int kChains, bool kRagged, bool kPacked>
void multiply_tile(const BlockCsrView& w, const Lanes& lanes, const Activations& a) {
  const int64_t input_stride = kPacked ? kWidth : 1, token_stride = kPacked ? 1 : a.x_stride;
  Vec sum[kChains][kTokens][kVectors];
  SPARSEKIT_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    SPARSEKIT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      SPARSEKIT_UNROLL
      for (int c = 0; c < kChains; ++c) sum[c][t][v] = Simd::zero();
    }
  }
  // The lines of y arrive while the blocks are multiplied.
  SPARSEKIT_UNROLL
  for (int t = 0; t < kTokens; ++t)
    if (t < a.tokens) Simd::prefetch_to_write(a.y + t * w.rows);
  const auto step = [&](const float* weights, const float* x, int chain) SPARSEKIT_INLINED {
    add_input<kVectors, kTokens, kRagged>(weights, lanes.last, x, token_stride, sum[chain]);
  };
  if (w.block_columns == 1) {  // the sums alternate from block to block
    const auto block = [&](int64_t b, int chain) SPARSEKIT_INLINED {
      step(lanes.values + b * w.block_rows, a.x + lanes.indices[b] * input_stride, chain);
    };
    int64_t b = 0;
    for (; b + kChains <= lanes.blocks; b += kChains) {
      SPARSEKIT_UNROLL
      for (int c = 0; c < kChains; ++c) block(b + c, c);
    }
    for (; b < lanes.blocks; ++b) block(b, 0);
  } else {
    for (int64_t b = 0; b < lanes.blocks; ++b) {
      const float* weights = lanes.values + b * w.block_rows * w.block_columns;
      const int64_t column = lanes.indices[b] * w.block_columns;
      const float* x = a.x + column * input_stride;
      const int64_t inputs = w.columns - column < w.block_columns ? w.columns - column : w.block_columns;
      int64_t k = 0;
      for (; k + kChains <= inputs; k += kChains) {
        SPARSEKIT_UNROLL
        for (int c = 0; c < kChains; ++c) step(weights + (k + c) * w.block_rows, x + (k + c) * input_stride, c);
      }
      for (; k < inputs; ++k) step(weights + k * w.block_rows, x + k * input_stride, 0);
    }
  }
  SPARSEKIT_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    const int stored = v + 1 == kVectors ? lanes.stored : kWidth;
    const Vec bias = lanes.bias == nullptr ? Simd::zero() : Simd::load_first(lanes.bias + v * kWidth, stored);
    SPARSEKIT_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      Vec total = sum[0][t][v];
      SPARSEKIT_UNROLL
      for (int c = 1; c < kChains; ++c) total = Simd::add(total, sum[c][t][v]);
      if (t < a.tokens) Simd::store_first(a.y + t * w.rows + v * kWidth, Simd::add(total, bias), stored);
    }
  }
}

// Tokens of one register tile: as many sums as fit in the registers beside weights and one activation.
template <int kVectors>
constexpr int tile_tokens() {
  constexpr int kSums = kWidth == 16 ? 16 : 8;
  return kSums / kVectors < kWidth ? kSums / kVectors : kWidth;
}

// Tokens [from, to) of the outputs in `lanes`: from the panels where they are packed, else from x in place.
template <int kVectors, bool kRagged>
void multiply_tokens(const BlockCsrView& w, const Tokens& tokens, const Lanes& lanes, int64_t output) {
  constexpr int kTokens = tile_tokens<kVectors>();
  float* y = tokens.y + output;
  if (tokens.panel != nullptr) {
    for (int64_t t = 0; t < tokens.count; t += kTokens) {
      const Activations a = {tokens.panel + t, 0, y + t * w.rows, tokens.count - t};
      if (2 * a.tokens <= kTokens)
        multiply_tile<kVectors, kTokens / 2, 1, kRagged, true>(w, lanes, a);
      else
        multiply_tile<kVectors, kTokens, 1, kRagged, true>(w, lanes, a);
    }
    return;
  }
  int64_t t = 0;
  const auto in_place = [&] {
    return Activations{tokens.x + t * tokens.x_stride, tokens.x_stride, y + t * w.rows, tokens.count - t};
  };
  for (; tokens.count - t >= 4; t += 4) multiply_tile<kVectors, 4, 2, kRagged, false>(w, lanes, in_place());
  for (; tokens.count - t >= 2; t += 2) multiply_tile<kVectors, 2, 2, kRagged, false>(w, lanes, in_place());
  if (t < tokens.count) multiply_tile<kVectors, 1, 4, kRagged, false>(w, lanes, in_place());
}

// Outputs whose vectors run along tokens, at a time: as many sums as hide the latency of the multiply-add.
constexpr int kLast = 4;

// The last outputs of the matrix where they would fill less than half a vector, against a packed panel.
void multiply_last(const BlockCsrView& w, const Tokens& tokens, const Lanes& lanes, int64_t output, int outputs) {
  for (int from = 0; from < outputs; from += kLast) {
    int at[kLast];
    Vec sum[kLast];
    for (int r = 0; r < kLast; ++r) {
      at[r] = from + r < outputs ? from + r : from;  // beyond them, one is computed again
      sum[r] = lanes.bias == nullptr ? Simd::zero() : Simd::set1(lanes.bias[at[r]]);
    }
    for (int64_t b = 0; b < lanes.blocks; ++b) {
      const float* weights = lanes.values + b * w.block_rows * w.block_columns;
      const int64_t column = lanes.indices[b] * w.block_columns;
      const int64_t inputs = w.columns - column < w.block_columns ? w.columns - column : w.block_columns;
      for (int64_t k = 0; k < inputs; ++k) {
        const Vec line = Simd::load(tokens.panel + (column + k) * kWidth);
        SPARSEKIT_UNROLL
        for (int r = 0; r < kLast; ++r) sum[r] = Simd::fma(Simd::set1(weights[k * w.block_rows + at[r]]), line, sum[r]);
      }
    }
    for (int r = 0; r < kLast && from + r < outputs; ++r) {
      alignas(64) float of_tokens[kWidth];
      Simd::store(of_tokens, sum[r]);
      for (int64_t t = 0; t < tokens.count; ++t) tokens.y[t * w.rows + output + from + r] = of_tokens[t];
    }
  }
}

void multiply_block_row(const BlockCsrView& w, const float* bias, const Tokens& tokens, int64_t row) {
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
                         bias == nullptr ? nullptr : bias + origin + lane};
    const bool ragged = lanes.last < kWidth;
    if (tokens.panel != nullptr && 2 * (inside - lane) < kWidth)
      multiply_last(w, tokens, lanes, origin + lane, lanes.stored);
    else if (vectors == 2 && ragged)
      multiply_tokens<2, true>(w, tokens, lanes, origin + lane);
    else if (vectors == 2)
      multiply_tokens<2, false>(w, tokens, lanes, origin + lane);
    else if (ragged)
      multiply_tokens<1, true>(w, tokens, lanes, origin + lane);
    else
      multiply_tokens<1, false>(w, tokens, lanes, origin + lane);
    lane += vectors * kWidth;
  }
}

void multiply(const BlockCsrView& w, const Product& product, const float* panels, int64_t packed, int64_t first,
              int64_t count, int64_t begin, int64_t end) {
  // A few block rows side by side, so that the lines of y that lie side by side are written together.
  constexpr int64_t kOutputs = 64;
  const int64_t together = w.block_rows < kOutputs ? kOutputs / w.block_rows : 1;
  for (int64_t from = begin; from < end; from += together) {
    const int64_t to = from + together < end ? from + together : end;
    for (int64_t t = 0; t < count;) {
      const bool in_panel = t < packed;
      const int64_t taken = in_panel && count - t > kWidth ? kWidth : count - t;
      const Tokens tokens = {in_panel ? panels + t * w.columns : nullptr, product.x + (first + t) * product.x_stride,
                             product.x_stride, product.y + (first + t) * w.rows, taken};
      for (int64_t row = from; row < to; ++row) multiply_block_row(w, product.bias, tokens, row);
      t += taken;
    }
  }
}

void pack(const Product& product, int64_t columns, int64_t first, int64_t tokens, float* panel) {
  pack_panel(product, columns, first, tokens, kWidth, panel);
}

constexpr sparsekit::BlockCsrKernels kBlockCsrKernels = {kWidth, pack, multiply};

}  // namespace
