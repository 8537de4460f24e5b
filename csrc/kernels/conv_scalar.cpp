#include "simd/scalar.h"
// The instruction set first.
#include "kernels/conv_body.h"

namespace sparsekit {
extern const ConvKernels conv_scalar;
const ConvKernels conv_scalar = kConvKernels;
}  // namespace sparsekit
