#include "simd/scalar.h"
// The instruction set first.
#include "kernels/activation_body.h"

namespace sparsekit {
extern const ActivationKernels activation_scalar;
const ActivationKernels activation_scalar = kActivationKernels;
}  // namespace sparsekit
