// Activations widened with zeros, for kernels that read whole vectors of columns.
#pragma once

#include <algorithm>
#include <cstring>

#include "core/scratch.h"
#include "kernels/product.h"

namespace sparsekit {

// The product whose x, of `columns` columns, is copied to `scratch` with zeros up to `wide` columns.
inline Product padded(const Product& product, int64_t columns, int64_t wide, Scratch& scratch) {
  Product copy = product;
  float* x = scratch.floats(static_cast<std::size_t>(wide * product.batch));
  for (int64_t m = 0; m < product.batch; ++m) {
    std::memcpy(x + m * wide, product.x + m * product.x_stride, sizeof(float) * static_cast<std::size_t>(columns));
    std::fill(x + m * wide + columns, x + (m + 1) * wide, 0.0f);
  }
  copy.x = x;
  copy.x_stride = wide;
  return copy;
}

}  // namespace sparsekit
