// Activations turned so that one input's values for many tokens lie side by side; included after one instruction set.
#pragma once

#include "kernels/product.h"

namespace {

using Vec = Simd::Vec;
constexpr int kWidth = Simd::kWidth;

// Transposes `rows` x `columns` (both at most kWidth) through a zeroed square, for the ragged edges.
void transpose_edge(const float* from, int64_t from_stride, int rows, int columns, float* to, int64_t to_stride) {
  alignas(64) float in[kWidth * kWidth] = {};
  alignas(64) float out[kWidth * kWidth];
  for (int i = 0; i < rows; ++i) Simd::store(in + i * kWidth, Simd::load_first(from + i * from_stride, columns));
  Simd::transpose(in, kWidth, out, kWidth);
  for (int j = 0; j < columns; ++j) Simd::storeu(to + j * to_stride, Simd::load(out + j * kWidth));
}

// panel[k * width + m] = x[first + m][k] for m < tokens, 0 for tokens <= m < width; width is a multiple of kWidth.
void pack_panel(const sparsekit::Product& product, int64_t columns, int64_t first, int64_t tokens, int64_t width,
                float* panel) {
  for (int64_t m = 0; m < width; m += kWidth) {
    const int64_t left = tokens - m;
    const float* from = product.x + (first + m) * product.x_stride;
    int64_t k = 0;
    if (left >= kWidth)
      for (; k + kWidth <= columns; k += kWidth)
        Simd::transpose(from + k, product.x_stride, panel + k * width + m, width);
    for (; k < columns; k += kWidth) {
      const int wide = static_cast<int>(columns - k < kWidth ? columns - k : kWidth);
      transpose_edge(from + k, product.x_stride, static_cast<int>(left < kWidth ? left : kWidth), wide,
                     panel + k * width + m, width);
    }
  }
}

}  // namespace
