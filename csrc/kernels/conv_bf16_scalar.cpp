#include "simd/scalar.h"
// The instruction set first.
#include "kernels/conv_bf16_body.h"

namespace sparsekit {
extern const ConvKernels conv_bf16_scalar;
const ConvKernels conv_bf16_scalar = kConvKernels;
}  // namespace sparsekit
