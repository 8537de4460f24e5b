#include "simd/avx512.h"
// The instruction set first.
#include "kernels/conv_body.h"

namespace sparsekit {
extern const ConvKernels conv_avx512;
const ConvKernels conv_avx512 = kConvKernels;
}  // namespace sparsekit
