// The bitmask kernel for bytes, written once over `Expand`; included after one instruction set, its Bytes and Expand:
//   Expand::next(bits, values) returns the weights of 64 columns and moves `values` past them,
//   Expand::dot(sum, weights, x) adds their products with 64 activations to a sum of many lanes,
//   Expand::totals(sums, to) adds up the lanes of each of kInt8Rows sums; they may wrap on the way.
#pragma once

#include "kernels/int8_bitmask.h"
#include "kernels/int8_input.h"
#include "simd/unroll.h"

namespace {

using sparsekit::Int8BitmaskView;
using sparsekit::Int8Vectors;
using sparsekit::kInt8Rows;
using sparsekit::kInt8Word;
using sparsekit::Product;

// Bytes between a word that is decoded and what is fetched then. The hardware alone leaves a tenth of the bandwidth
// unused: the two streams are read in small steps.
constexpr int kValuesAhead = 2048, kBitsAhead = 512;

SPARSEKIT_INLINE void prefetch(const uint64_t* bits, const int8_t* values) {
  SPARSEKIT_UNROLL
  for (int i = 0; i < 3; ++i) Simd::prefetch(values + kValuesAhead + 64 * i);
  Simd::prefetch(bits + kBitsAhead / 8);
}

// The rows of group n, decoded once for all tokens. The values are one stream: where a word's begin depends on all
// words before it, by one addition each.
template <int kTokens>
void multiply_group(const Int8BitmaskView& w, const Product& product, const Int8Vectors& tokens, int64_t n) {
  const uint64_t* next = w.bits + n * w.words * kInt8Rows;
  const int8_t* values = w.values + w.offsets[n];
  const uint8_t* x = tokens.x;
  Expand::Sum sum[kTokens][kInt8Rows];
  SPARSEKIT_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    SPARSEKIT_UNROLL
    for (int r = 0; r < kInt8Rows; ++r) sum[t][r] = Expand::zero();
  }
  for (int64_t g = 0; g < w.words; ++g, next += kInt8Rows, x += kInt8Word) {
    prefetch(next, values);
    SPARSEKIT_UNROLL
    for (int r = 0; r < kInt8Rows; ++r) {
      const Expand::Weights weights = Expand::next(next[r], values);
      SPARSEKIT_UNROLL
      for (int t = 0; t < kTokens; ++t) sum[t][r] = Expand::dot(sum[t][r], weights, x + t * w.words * kInt8Word);
    }
  }
  const int64_t row = n * kInt8Rows;
  SPARSEKIT_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    int32_t totals[kInt8Rows];
    Expand::totals(sum[t], totals);
    float* y = product.y + t * w.rows + row;
    for (int r = 0; r < kInt8Rows && row + r < w.rows; ++r) {
      // Sums of 32 bits may wrap on the way; the whole one fits.
      const uint32_t whole = static_cast<uint32_t>(w.starts[row + r]) + static_cast<uint32_t>(totals[r]);
      y[r] = static_cast<float>(static_cast<int32_t>(whole)) * (w.scales[row + r] * tokens.steps[t]) +
             (product.bias == nullptr ? 0.0f : product.bias[row + r]);
    }
  }
}

void multiply(const Int8BitmaskView& w, const Product& product, const Int8Vectors& tokens, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) switch (product.batch) {
      case 1: multiply_group<1>(w, product, tokens, n); break;
      case 2: multiply_group<2>(w, product, tokens, n); break;
      case 3: multiply_group<3>(w, product, tokens, n); break;
      default: multiply_group<4>(w, product, tokens, n);
    }
}

void quantize(const Product& product, int64_t columns, int64_t padded, uint8_t* x, float* steps) {
  for (int64_t t = 0; t < product.batch; ++t)
    steps[t] = quantize_token(product.x + t * product.x_stride, columns, padded, x + t * padded);
}

constexpr sparsekit::Int8BitmaskKernels kInt8BitmaskKernels = {Bytes::kOffset, quantize, multiply};

}  // namespace
