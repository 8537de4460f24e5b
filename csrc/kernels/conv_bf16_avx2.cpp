#include "simd/avx2.h"
// The instruction set first.
#include "kernels/conv_bf16_body.h"

namespace sparsekit {
extern const ConvKernels conv_bf16_avx2;
const ConvKernels conv_bf16_avx2 = kConvKernels;
}  // namespace sparsekit
