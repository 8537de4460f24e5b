// The bitmask kernel, written once over `Simd` and `Expand`; included after one instruction set and its Expand:
//   Expand::kRows rows are decoded side by side;
//   Expand::next(word, part, values) returns the weights of columns [part * kWidth, (part + 1) * kWidth) of a word of
//   16 bits, and moves `values` past them.
#pragma once

#include "kernels/bitmask.h"
#include "simd/unroll.h"

namespace {

using sparsekit::BitmaskView;
using sparsekit::Product;
using Vec = Simd::Vec;
constexpr int kWidth = Simd::kWidth;

// Rows are decoded side by side: each row's position in its values depends on all words before it, and several such
// chains in flight hide each other's latency.
template <int kRows>
void multiply_group(const BitmaskView& w, const Product& product, int64_t n) {
  for (int64_t m = 0; m < product.batch; ++m) {
    const float* x = product.x + m * product.x_stride;
    const uint16_t* bits = w.bits + n * w.words;
    const float* values[kRows];
    Vec sum[kRows];
    SPARSEKIT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      values[r] = w.values + (w.offsets[n + r] - w.first_offset);
      sum[r] = Simd::zero();
    }
    for (int64_t g = 0; g < w.words; ++g) {
      SPARSEKIT_UNROLL
      for (int part = 0; part < 16 / kWidth; ++part) {
        const Vec activation = Simd::loadu(x + 16 * g + part * kWidth);
        SPARSEKIT_UNROLL
        for (int r = 0; r < kRows; ++r)
          sum[r] = Simd::fma(Expand::next(bits + r * w.words + g, part, values[r]), activation, sum[r]);
      }
    }
    SPARSEKIT_UNROLL
    for (int r = 0; r < kRows; ++r)
      product.y[m * w.rows + n + r] = Simd::sum(sum[r]) + (product.bias == nullptr ? 0.0f : product.bias[n + r]);
  }
}

void multiply_rows(const BitmaskView& w, const Product& product, int64_t begin, int64_t end) {
  int64_t n = begin;
  for (; n + Expand::kRows <= end; n += Expand::kRows) multiply_group<Expand::kRows>(w, product, n);
  for (; n < end; ++n) multiply_group<1>(w, product, n);
}

constexpr sparsekit::BitmaskKernels kBitmaskKernels = {multiply_rows};

}  // namespace
