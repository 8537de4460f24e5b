#include "simd/avx512.h"
// The instruction set first.
#include "kernels/block_half_body.h"

namespace sparsekit {
extern const BlockHalfKernels block_half_avx512;
const BlockHalfKernels block_half_avx512 = kBlockHalfKernels;
}  // namespace sparsekit
