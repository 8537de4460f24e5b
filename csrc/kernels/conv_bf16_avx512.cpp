#include "simd/avx512.h"
// The instruction set first.
#include "kernels/conv_bf16_body.h"

namespace sparsekit {
extern const ConvKernels conv_bf16_avx512;
const ConvKernels conv_bf16_avx512 = kConvKernels;
}  // namespace sparsekit
