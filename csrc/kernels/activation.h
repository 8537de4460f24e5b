// What may be applied to a result while it is in the caches.
#pragma once

#include <cstdint>

namespace sparsekit {

// In the order of sparsekit.kernels.activation.ACTIVATIONS.
enum class Activation { none = 0, relu = 1, silu = 2, gelu = 3, gelu_tanh = 4 };

struct ActivationKernels {
  // Applies it to each of `count` values; not for none.
  void (*apply)(float* y, int64_t count, Activation activation);
};

}  // namespace sparsekit
