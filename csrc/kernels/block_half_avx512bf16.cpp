#include "simd/avx512.h"
// The instruction set first.
#include "kernels/block_half_body.h"

namespace sparsekit {
extern const BlockHalfKernels block_half_avx512bf16;
const BlockHalfKernels block_half_avx512bf16 = kBlockHalfKernels;
}  // namespace sparsekit
