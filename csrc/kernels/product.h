// y = activation(x W^T + bias), in fp32: the operands that every kernel shares.
#pragma once

#include <cstdint>

#include "kernels/activation.h"

namespace sparsekit {

struct Product {
  const float* x;  // (batch, columns); a row is contiguous
  int64_t batch;
  int64_t x_stride;   // floats between rows of x
  const float* bias;  // (rows,) or null
  float* y;           // (batch, rows), contiguous
  Activation activation = Activation::none;

  // Applies the activation to outputs [begin, end) of `rows`, for tokens [first, last): right after they were written,
  // while the caches hold them.
  void activate(const ActivationKernels& kernels, int64_t rows, int64_t first, int64_t last, int64_t begin,
                int64_t end) const {
    if (activation == Activation::none || begin >= end) return;
    for (int64_t m = first; m < last; ++m) kernels.apply(y + m * rows + begin, end - begin, activation);
  }
};

}  // namespace sparsekit
