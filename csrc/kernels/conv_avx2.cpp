#include "simd/avx2.h"
// The instruction set first.
#include "kernels/conv_body.h"

namespace sparsekit {
extern const ConvKernels conv_avx2;
const ConvKernels conv_avx2 = kConvKernels;
}  // namespace sparsekit
