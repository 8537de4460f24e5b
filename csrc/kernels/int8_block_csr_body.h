// The kernel for blocks of bytes, written once over `Simd` and `Bytes`: vectors run along a block's outputs, four
// inputs of a token are broadcast.
#pragma once

#include <algorithm>

#include "kernels/int8_block_csr.h"
#include "kernels/int8_input.h"
#include "kernels/panel.h"
#include "simd/unroll.h"

namespace {

using sparsekit::Int8BlocksView;
using sparsekit::Int8Tokens;
using sparsekit::kInt8InPlace;
using sparsekit::kInt8Panel;
using sparsekit::Product;

// Some tokens of a panel: four inputs of token t at x[step * step_bytes + t * token_bytes].
struct Group {
  const uint8_t* x;
  int64_t step_bytes, token_bytes;
  const float* steps;
  float* y;        // first token, first output
  int64_t tokens;  // to store
};

// The outputs [lane, lane + kVectors * kWidth) of one block row.
struct Lanes {
  const int8_t* values;  // first block, first output
  const int32_t* columns;
  int64_t blocks;
  const float* scales;
  const int32_t* starts;
  const float* bias;
  int stored;  // lanes of the last vector that lie inside the matrix
};

// Bytes between a weight that is multiplied and what is fetched then: for many tokens weights flow too slowly for the
// hardware to fetch them far enough ahead.
constexpr int kWeightsAhead = 2048;

template <int kVectors, int kTokens, bool kPanel>
void multiply_tile(const Int8BlocksView& w, const Lanes& lanes, const Group& group) {
  Bytes::Sum sum[kTokens][kVectors];
  SPARSEKIT_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    const Bytes::Sum start = Bytes::loadu(lanes.starts + v * kWidth);
    SPARSEKIT_UNROLL
    for (int t = 0; t < kTokens; ++t) sum[t][v] = start;
  }
  // The lines of y arrive while the blocks are multiplied.
  SPARSEKIT_UNROLL
  for (int t = 0; t < kTokens; ++t)
    if (t < group.tokens) Simd::prefetch_to_write(group.y + t * w.rows);
  const int64_t step_bytes = kPanel ? 4 * kInt8Panel : group.step_bytes;
  for (int64_t b = 0; b < lanes.blocks; ++b) {
    const int8_t* weights = lanes.values + b * w.steps * w.lanes * 4;
    const uint8_t* x = group.x + lanes.columns[b] * step_bytes;
    for (int64_t s = 0; s < w.steps; ++s, weights += w.lanes * 4, x += step_bytes) {
      Bytes::Weights weight[kVectors];
      SPARSEKIT_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        if (kPanel) Simd::prefetch(weights + kWeightsAhead + v * kWidth * 4);
        weight[v] = Bytes::load(weights + v * kWidth * 4);
      }
      SPARSEKIT_UNROLL
      for (int t = 0; t < kTokens; ++t) {
        SPARSEKIT_UNROLL
        for (int v = 0; v < kVectors; ++v)
          sum[t][v] = Bytes::dot(sum[t][v], weight[v], x + t * (kPanel ? 4 : group.token_bytes));
      }
    }
  }
  SPARSEKIT_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    const int stored = v + 1 == kVectors ? lanes.stored : kWidth;
    const Vec bias = lanes.bias == nullptr ? Simd::zero() : Simd::load_first(lanes.bias + v * kWidth, stored);
    const Vec scale = Simd::loadu(lanes.scales + v * kWidth);
    SPARSEKIT_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      if (t >= group.tokens) break;
      const Vec both = Simd::mul(scale, Simd::set1(group.steps[t]));
      Simd::store_first(group.y + t * w.rows + v * kWidth, Simd::fma(Bytes::floats(sum[t][v]), both, bias), stored);
    }
  }
}

// Tokens of one register tile: as many sums as fit in the registers beside weights and one activation.
template <int kVectors>
constexpr int tile_tokens() {
  constexpr int kSums = kWidth == 16 ? 16 : 8;
  return kSums / kVectors;
}

// One panel of at most kInt8Panel tokens.
template <int kVectors>
void multiply_panel(const Int8BlocksView& w, const Lanes& lanes, Group group) {
  constexpr int kTokens = tile_tokens<kVectors>();
  const auto advance = [&](int tokens) {
    group.x += tokens * group.token_bytes;
    group.steps += tokens;
    group.y += tokens * w.rows;
    group.tokens -= tokens;
  };
  if (group.token_bytes == 4) {
    for (; group.tokens > kTokens / 2; advance(kTokens)) multiply_tile<kVectors, kTokens, true>(w, lanes, group);
    if (group.tokens > 0) multiply_tile<kVectors, kTokens / 2, true>(w, lanes, group);
    return;
  }
  if (group.tokens == 4) return multiply_tile<kVectors, 4, false>(w, lanes, group);
  for (; group.tokens >= 2; advance(2)) multiply_tile<kVectors, 2, false>(w, lanes, group);
  if (group.tokens == 1) multiply_tile<kVectors, 1, false>(w, lanes, group);
}

void multiply_block_row(const Int8BlocksView& w, const Product& product, const Int8Tokens& tokens, int64_t row) {
  const int64_t origin = row * w.block_rows;
  const int64_t inside = std::min(w.rows - origin, w.block_rows);
  const int64_t offset = w.offsets[row];
  for (int64_t lane = 0; lane < inside;) {
    const int vectors = inside - lane > kWidth ? 2 : 1;
    const int64_t last = lane + (vectors - 1) * kWidth;
    const Lanes lanes = {w.values + (offset * w.steps * w.lanes + lane) * 4,
                         w.columns + offset,
                         w.offsets[row + 1] - offset,
                         w.scales + row * w.lanes + lane,
                         w.starts + row * w.lanes + lane,
                         product.bias == nullptr ? nullptr : product.bias + origin + lane,
                         static_cast<int>(std::min<int64_t>(inside - last, kWidth))};
    for (int64_t t = 0; t < tokens.count; t += kInt8Panel) {
      const int64_t count = std::min<int64_t>(tokens.count - t, kInt8Panel);
      const bool panel = count > kInt8InPlace;
      const Group group = {tokens.panels + t / kInt8Panel * tokens.panel_bytes,
                           panel ? 4 * kInt8Panel : 4,
                           panel ? 4 : tokens.row_bytes,
                           tokens.steps + t,
                           product.y + (tokens.first + t) * w.rows + origin + lane,
                           count};
      if (vectors == 2)
        multiply_panel<2>(w, lanes, group);
      else
        multiply_panel<1>(w, lanes, group);
    }
    lane += vectors * kWidth;
  }
}

void multiply(const Int8BlocksView& w, const Product& product, const Int8Tokens& tokens, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) multiply_block_row(w, product, tokens, row);
}

void quantize(const Product& product, int64_t columns, int64_t padded, int64_t first, int64_t tokens, uint8_t* rows,
              uint8_t* panel, float* steps) {
  const bool in_place = tokens <= kInt8InPlace;
  uint8_t* to = in_place ? panel : rows;
  for (int64_t t = 0; t < tokens; ++t)
    steps[t] = quantize_token(product.x + (first + t) * product.x_stride, columns, padded, to + t * padded);
  if (in_place) return;
  Product bytes = {};  // four at a time, as if they were floats
  bytes.x = reinterpret_cast<const float*>(rows);
  bytes.x_stride = padded / 4;
  pack_panel(bytes, padded / 4, 0, tokens, kInt8Panel, reinterpret_cast<float*>(panel));
}

constexpr sparsekit::Int8BlockCsrKernels kInt8BlockCsrKernels = {Bytes::kOffset, quantize, multiply};

}  // namespace
