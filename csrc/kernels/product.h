// y = x W^T + bias, in fp32: the operands that every kernel shares.
#pragma once

#include <cstdint>

namespace sparsekit {

struct Product {
  const float* x;  // (batch, columns); a row is contiguous
  int64_t batch;
  int64_t x_stride;   // floats between rows of x
  const float* bias;  // (rows,) or null
  float* y;           // (batch, rows), contiguous
};

}  // namespace sparsekit
