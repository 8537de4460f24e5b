// y = activation(x W^T + bias) + residual: the operands that every kernel shares.
#pragma once

#include <cstdint>

#include "kernels/activation.h"

namespace sparsekit {

template <class Number>
struct ProductOf {
  const Number* x;  // (batch, columns); a row is contiguous
  int64_t batch;
  int64_t x_stride;    // numbers between rows of x
  const Number* bias;  // (rows,) or null
  Number* y;           // (batch, rows), contiguous
  Activation activation = Activation::none;
  const Number* residual = nullptr;  // (batch, rows), contiguous, or null
};

// In fp32. A kernel writes x W^T + bias to y and then finishes what it has written.
struct Product : ProductOf<float> {
  // Applies activation and residual to outputs [begin, end) of `rows`, for tokens [first, last): right after they were
  // written, while the caches hold them.
  void finish(const ActivationKernels& kernels, int64_t rows, int64_t first, int64_t last, int64_t begin,
              int64_t end) const {
    if ((activation == Activation::none && residual == nullptr) || begin >= end) return;
    for (int64_t m = first; m < last; ++m) {
      const int64_t at = m * rows + begin;
      kernels.apply(y + at, residual == nullptr ? nullptr : residual + at, end - begin, activation);
    }
  }
};

// In bfloat16, seen as its bits, with sums in fp32. A kernel keeps x W^T in fp32 and hands it over.
struct HalfProduct : ProductOf<uint16_t> {
  // Writes the outputs [begin, end) of `rows` for token m, given their sums without bias.
  void finish(const ActivationKernels& kernels, int64_t rows, int64_t m, int64_t begin, int64_t end,
              const float* sums) const {
    const int64_t at = m * rows + begin;
    kernels.round(sums, bias == nullptr ? nullptr : bias + begin, residual == nullptr ? nullptr : residual + at, y + at,
                  end - begin, activation);
  }
};

}  // namespace sparsekit
