// The bitmask kernel, written once over `Simd` and `Expand`; included after one instruction set and its Expand:
//   Expand::next(words, r, part, values) returns the weights of columns [part * kWidth, (part + 1) * kWidth) of row r's
//   word among the kBitmaskRows words of a group, and moves `values` past them.
#pragma once

#include "kernels/bitmask.h"
#include "simd/unroll.h"

namespace {

using sparsekit::BitmaskView;
using sparsekit::kBitmaskRows;
using sparsekit::Product;
using Vec = Simd::Vec;
constexpr int kWidth = Simd::kWidth;

// A row's position in its values depends on all words before it: several such chains in flight hide each other's
// latency. The rows of a group lie far apart, so that each follows one long stream of values, row after row, that the
// hardware prefetches; all their bits are one stream.
void multiply_group(const BitmaskView& w, const Product& product, int64_t n) {
  for (int64_t m = 0; m < product.batch; ++m) {
    const float* x = product.x + m * product.x_stride;
    const uint16_t* words = w.bits + n * w.words * kBitmaskRows;
    const float* values[kBitmaskRows];
    Vec sum[kBitmaskRows];
    SPARSEKIT_UNROLL
    for (int r = 0; r < kBitmaskRows; ++r) {
      values[r] = w.values[n + r * w.groups];
      sum[r] = Simd::zero();
    }
    for (int64_t g = 0; g < w.words; ++g, words += kBitmaskRows) {
      SPARSEKIT_UNROLL
      for (int part = 0; part < 16 / kWidth; ++part) {
        const Vec activation = Simd::loadu(x + 16 * g + part * kWidth);
        SPARSEKIT_UNROLL
        for (int r = 0; r < kBitmaskRows; ++r)
          sum[r] = Simd::fma(Expand::next(words, r, part, values[r]), activation, sum[r]);
      }
    }
    SPARSEKIT_UNROLL
    for (int r = 0; r < kBitmaskRows; ++r) {
      const int64_t row = n + r * w.groups;
      if (row < w.rows)
        product.y[m * w.rows + row] = Simd::sum(sum[r]) + (product.bias == nullptr ? 0.0f : product.bias[row]);
    }
  }
}

void multiply_groups(const BitmaskView& w, const Product& product, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) multiply_group(w, product, n);
}

constexpr sparsekit::BitmaskKernels kBitmaskKernels = {multiply_groups};

}  // namespace
