#include "simd/avx512.h"
// The instruction set first.
#include "kernels/conv_bf16_body.h"

namespace sparsekit {
extern const ConvKernels conv_bf16_avx512bf16;
const ConvKernels conv_bf16_avx512bf16 = kConvKernels;
}  // namespace sparsekit
