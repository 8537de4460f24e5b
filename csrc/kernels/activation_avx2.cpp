#include "simd/avx2.h"
// The instruction set first.
#include "kernels/activation_body.h"

namespace sparsekit {
extern const ActivationKernels activation_avx2;
const ActivationKernels activation_avx2 = kActivationKernels;
}  // namespace sparsekit
