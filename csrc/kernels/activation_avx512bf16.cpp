#include "simd/avx512.h"
// The instruction set first.
#include "kernels/activation_body.h"

namespace sparsekit {
extern const ActivationKernels activation_avx512bf16;
const ActivationKernels activation_avx512bf16 = kActivationKernels;
}  // namespace sparsekit
