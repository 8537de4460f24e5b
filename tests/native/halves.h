// A product in bfloat16.
#pragma once

#include "native.h"

namespace native {

// The operands of `problem` in bfloat16; those of its fp32 buffers become what bfloat16 holds.
struct HalfOperands {
  Buffer<uint16_t> x, bias, residual;

  explicit HalfOperands(const Problem& problem)
      : x(problem.x.size()), bias(problem.bias.size()), residual(problem.residual.size()) {
    cut(problem.x, x);
    cut(problem.bias, bias);
    cut(problem.residual, residual);
  }

 private:
  static void cut(const Buffer<float>& from, const Buffer<uint16_t>& to) {
    for (int64_t i = 0; i < to.size(); ++i) from[i] = widened(to[i] = halved(from[i]));
  }
};

// Multiplies by a weight in bfloat16 and judges every output.
template <class Packed>
void check_half(const Problem& problem, const HalfOperands& operands, const Packed& packed) {
  const Buffer<uint16_t> y(problem.batch * problem.weight.rows);
  y.fill(0x7fff);
  sparsekit::HalfProduct product;
  product.x = operands.x.data();
  product.batch = problem.batch;
  product.x_stride = problem.x_stride;
  product.bias = operands.bias.data();
  product.y = y.data();
  product.activation = problem.activation;
  product.residual = operands.residual.data();
  packed.multiply(product);
  problem.judge_all([&](int64_t i) { return widened(y[i]); }, 0x1p-8);
}

}  // namespace native
