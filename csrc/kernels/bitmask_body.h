// The bitmask kernel, written once over `Simd` and `Expand`; included after one instruction set and its Expand:
//   Expand::next(words, c, part, values) returns the weights of rows [part * kWidth, (part + 1) * kWidth) of a group in
//   column c of the kBitmaskColumns whose words are given, and moves `values` past them.
#pragma once

#include <algorithm>

#include "kernels/bitmask.h"
#include "simd/constant.h"
#include "simd/unroll.h"

namespace {

using sparsekit::BitmaskView;
using sparsekit::kBitmaskColumns;
using sparsekit::kBitmaskRows;
using sparsekit::Product;
using Vec = Simd::Vec;
constexpr int kWidth = Simd::kWidth;
constexpr int kParts = kBitmaskRows / kWidth;
// Tokens that share one decoding.
constexpr int kMostTokens = 4;
// How far ahead values are fetched, and how many lines at a time: as many as half of the weights of eight columns fill.
constexpr int kAhead = 4096, kLines = 4;

// Sums of a group's rows for each token. Two of each, for the columns in turn, hide the latency of a multiply-add.
template <int Tokens>
struct Sums {
  Vec of[2][Tokens][kParts];
};

template <int Tokens>
SPARSEKIT_INLINE void add_column(const uint16_t* words, int c, const float*& values, const float* x, int64_t stride,
                                 Sums<Tokens>& sums) {
  SPARSEKIT_UNROLL
  for (int part = 0; part < kParts; ++part) {
    const Vec weights = Expand::next(words, c, part, values);
    SPARSEKIT_UNROLL
    for (int m = 0; m < Tokens; ++m) {
      Vec& sum = sums.of[c & 1][m][part];
      sum = Simd::fma(weights, Simd::set1(x[m * stride]), sum);
    }
  }
}

// Writes the rows from `first` on: the sums of one token.
template <int Tokens>
SPARSEKIT_INLINE void finish_rows(const BitmaskView& w, const Product& product, int64_t first, int64_t token, int m,
                                  const Sums<Tokens>& sums) {
  float* y = product.y + token * w.rows;
  SPARSEKIT_UNROLL
  for (int part = 0; part < kParts; ++part) {
    const int64_t row = first + part * kWidth;
    const int rows = static_cast<int>(std::max<int64_t>(0, std::min<int64_t>(kWidth, w.rows - row)));
    if (rows == 0) return;
    const Vec bias = product.bias == nullptr ? Simd::zero() : Simd::load_first(product.bias + row, rows);
    Simd::store_first(y + row, Simd::add(Simd::add(sums.of[0][m][part], sums.of[1][m][part]), bias), rows);
  }
}

// One word says which of 16 rows keep a column: the values of a group are one stream, a row's sum stays in one lane,
// and what is decoded serves all tokens.
template <int Tokens>
void multiply_group(const BitmaskView& w, const Product& product, int64_t token, int64_t n) {
  Sums<Tokens> sums;
  for (auto& of : sums.of)
    for (auto& parts : of)
      for (Vec& sum : parts) sum = Simd::zero();
  const float* values = w.values + w.offsets[n];
  const uint16_t* words = w.bits + n * w.words;
  const float* x = product.x + token * product.x_stride;
  const float* whole = x + w.columns / kBitmaskColumns * kBitmaskColumns;
  for (; x != whole; x += kBitmaskColumns, words += kBitmaskColumns) {
    SPARSEKIT_UNROLL
    for (int line = 0; line < kLines; ++line)
      __builtin_prefetch(reinterpret_cast<const char*>(values) + kAhead + 64 * line);
    SPARSEKIT_UNROLL
    for (int c = 0; c < kBitmaskColumns; ++c) add_column(words, c, values, x + c, product.x_stride, sums);
  }
  for (int c = 0; c < static_cast<int>(w.columns % kBitmaskColumns); ++c)
    add_column(words, c, values, x + c, product.x_stride, sums);
  SPARSEKIT_UNROLL
  for (int m = 0; m < Tokens; ++m) finish_rows(w, product, n * kBitmaskRows, token + m, m, sums);
}

void multiply_groups(const BitmaskView& w, const Product& product, int64_t begin, int64_t end) {
  for (int64_t token = 0; token < product.batch; token += kMostTokens)
    with_constant<kMostTokens>(static_cast<int>(std::min<int64_t>(product.batch - token, kMostTokens)),
                               [&](auto tokens) {
                                 for (int64_t n = begin; n < end; ++n) multiply_group<tokens>(w, product, token, n);
                               });
}

constexpr sparsekit::BitmaskKernels kBitmaskKernels = {multiply_groups};

}  // namespace
