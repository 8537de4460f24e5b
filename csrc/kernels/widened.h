// Products in bfloat16 by weights that are kept in fp32: activations are widened, sums are rounded once.
#pragma once

#include "core/scratch.h"
#include "kernels/product.h"

namespace sparsekit {

// to[m * columns + k] = fp32 of input column + k of token first + m.
inline void widen(const HalfProduct& product, int64_t first, int64_t tokens, int64_t column, int64_t columns,
                  float* to) {
  uint32_t* bits = reinterpret_cast<uint32_t*>(to);
  for (int64_t m = 0; m < tokens; ++m) {
    const uint16_t* from = product.x + (first + m) * product.x_stride + column;
    for (int64_t k = 0; k < columns; ++k) bits[m * columns + k] = static_cast<uint32_t>(from[k]) << 16;
  }
}

// For few tokens, whose activations and sums are small beside the weight.
template <class Packed>
void multiply_widened(const Packed& packed, int64_t rows, int64_t columns, const ActivationKernels& activations,
                      const HalfProduct& halves) {
  static thread_local Scratch inputs, sums;
  float* x = inputs.floats(static_cast<std::size_t>(halves.batch * columns));
  widen(halves, 0, halves.batch, 0, columns, x);
  Product product;
  product.x = x;
  product.batch = halves.batch;
  product.x_stride = columns;
  product.bias = nullptr;
  product.y = sums.floats(static_cast<std::size_t>(halves.batch * rows));
  packed.multiply(product);
  for (int64_t m = 0; m < halves.batch; ++m) halves.finish(activations, rows, m, 0, rows, product.y + m * rows);
}

}  // namespace sparsekit
