// What may be applied to a result while it is in the caches.
#pragma once

#include <cstdint>

namespace sparsekit {

// In the order of sparsekit.kernels.activation.ACTIVATIONS.
enum class Activation { none = 0, relu = 1, silu = 2, gelu = 3, gelu_tanh = 4 };

struct ActivationKernels {
  // y = activation(y) + residual for `count` values; a null residual is 0.
  void (*apply)(float* y, const float* residual, int64_t count, Activation activation);
  // y = activation(sums + bias) + residual, computed in fp32 and rounded to bfloat16 once; a null bias or residual is
  // 0.
  void (*round)(const float* sums, const uint16_t* bias, const uint16_t* residual, uint16_t* y, int64_t count,
                Activation activation);
};

}  // namespace sparsekit
