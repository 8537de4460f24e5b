// The N:M kernel, written once over `Pieces`; included after one instruction set and its Pieces:
//   Pieces<kShort, kReach>(view) keeps what all pieces share; Window is the x of one piece in registers;
//   dot(values, indices, window, sum) adds the products of a piece.
#pragma once

#include "kernels/nm.h"
#include "simd/unroll.h"

namespace {

using sparsekit::kNmLanes;
using sparsekit::kNmRows;
using sparsekit::NmView;
using sparsekit::Product;

// Adds the columns that fill no group, and the bias.
void store_rows(const NmView& w, const Product& product, int64_t m, int64_t first, const float* sums) {
  const float* x = product.x + m * product.x_stride + w.tail_start;
  for (int64_t n = first; n < first + kNmRows && n < w.rows; ++n) {
    float y = sums[n - first] + (product.bias == nullptr ? 0.0f : product.bias[n]);
    for (int64_t k = 0; k < w.tail_columns; ++k) y += w.tail[n * w.tail_columns + k] * x[k];
    product.y[m * w.rows + n] = y;
  }
}

// One group of rows for kTokens tokens from m on: positions are decoded once for all of them.
template <class Piece, int kTokens>
void multiply_group(const NmView& w, const Product& product, int64_t group, int64_t m) {
  constexpr int64_t kAhead = 2048;  // floats
  const Piece piece(w);
  const int64_t place = group * w.pieces * kNmRows;
  const float* values = w.values + place * kNmLanes;
  const uint8_t* indices = w.indices + place * Piece::kIndexBytes;
  typename Piece::Sum sum[kNmRows][kTokens];
  SPARSEKIT_UNROLL
  for (int r = 0; r < kNmRows; ++r) {
    SPARSEKIT_UNROLL
    for (int t = 0; t < kTokens; ++t) sum[r][t] = Piece::zero();
  }
  for (int64_t c = 0; c < w.pieces; ++c) {
    typename Piece::Window window[kTokens];
    SPARSEKIT_UNROLL
    for (int t = 0; t < kTokens; ++t) window[t] = Piece::load(product.x + (m + t) * product.x_stride + w.starts[c]);
    SPARSEKIT_UNROLL
    for (int r = 0; r < kNmRows; ++r, values += kNmLanes, indices += Piece::kIndexBytes) {
      __builtin_prefetch(values + kAhead);
      const typename Piece::Lanes lanes = piece.lanes(indices);
      SPARSEKIT_UNROLL
      for (int t = 0; t < kTokens; ++t) sum[r][t] = Piece::dot(values, lanes, window[t], sum[r][t]);
    }
  }
  SPARSEKIT_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    float sums[kNmRows];
    SPARSEKIT_UNROLL
    for (int r = 0; r < kNmRows; ++r) sums[r] = Piece::total(sum[r][t]);
    store_rows(w, product, m + t, group * kNmRows, sums);
  }
}

template <class Piece>
void multiply_groups_of(const NmView& w, const Product& product, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    int64_t m = 0;
    for (; m + 2 <= product.batch; m += 2) multiply_group<Piece, 2>(w, product, n, m);
    if (m < product.batch) multiply_group<Piece, 1>(w, product, n, m);
  }
}

void multiply_groups(const NmView& w, const Product& product, int64_t begin, int64_t end) {
  const bool near = w.reach == 32;
  if (w.short_indices)
    near ? multiply_groups_of<Pieces<true, 32>>(w, product, begin, end)
         : multiply_groups_of<Pieces<true, 64>>(w, product, begin, end);
  else
    near ? multiply_groups_of<Pieces<false, 32>>(w, product, begin, end)
         : multiply_groups_of<Pieces<false, 64>>(w, product, begin, end);
}

constexpr sparsekit::NmKernels kNmKernels = {multiply_groups};

}  // namespace
