// The bitmask kernel for bytes, written once over `Expand`; included after one instruction set, its Bytes and Expand:
//   Expand::Words(words) reads kInt8Words * kInt8Rows words,
//   Expand::next(words, i, values) returns the weights of the 64 columns of word i and moves `values` past them,
//   Expand::dot(sum, weights, x) adds their products with 64 activations to a sum of many lanes,
//   Expand::total(sum) adds up its lanes.
#pragma once

#include "kernels/int8_bitmask.h"
#include "kernels/int8_input.h"
#include "simd/unroll.h"

namespace {

using sparsekit::Int8BitmaskView;
using sparsekit::Int8Vectors;
using sparsekit::kInt8Rows;
using sparsekit::kInt8Word;
using sparsekit::kInt8Words;
using sparsekit::Product;

// The rows of group n, decoded once for all tokens. The values are one stream, which the hardware prefetches: where a
// word's begin depends on all words before it, by one addition each.
template <int kTokens>
void multiply_group(const Int8BitmaskView& w, const Product& product, const Int8Vectors& tokens, int64_t n) {
  const uint64_t* next = w.bits + n * w.words * kInt8Rows;
  const int8_t* values = w.values + w.offsets[n];
  const uint8_t* x = tokens.x;
  Expand::Sum sum[kInt8Rows][kTokens];
  SPARSEKIT_UNROLL
  for (int r = 0; r < kInt8Rows; ++r) {
    SPARSEKIT_UNROLL
    for (int t = 0; t < kTokens; ++t) sum[r][t] = Expand::zero();
  }
  for (int64_t g = 0; g < w.words; g += kInt8Words, next += kInt8Words * kInt8Rows) {
    const Expand::Words words(next);
    SPARSEKIT_UNROLL
    for (int h = 0; h < kInt8Words; ++h, x += kInt8Word) {
      SPARSEKIT_UNROLL
      for (int r = 0; r < kInt8Rows; ++r) {
        const Expand::Weights weights = Expand::next(words, h * kInt8Rows + r, values);
        SPARSEKIT_UNROLL
        for (int t = 0; t < kTokens; ++t) sum[r][t] = Expand::dot(sum[r][t], weights, x + t * w.words * kInt8Word);
      }
    }
  }
  SPARSEKIT_UNROLL
  for (int r = 0; r < kInt8Rows; ++r) {
    const int64_t row = n * kInt8Rows + r;
    if (row >= w.rows) return;
    SPARSEKIT_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      // Sums of 32 bits may wrap on the way; the whole one fits.
      const uint32_t whole = static_cast<uint32_t>(w.starts[row]) + static_cast<uint32_t>(Expand::total(sum[r][t]));
      const float product_of_bytes = static_cast<float>(static_cast<int32_t>(whole));
      product.y[t * w.rows + row] =
          product_of_bytes * (w.scales[row] * tokens.steps[t]) + (product.bias == nullptr ? 0.0f : product.bias[row]);
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
