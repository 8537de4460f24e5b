#include "simd/avx2.h"
// The instruction set first.
#include "kernels/block_half_body.h"

namespace sparsekit {
extern const BlockHalfKernels block_half_avx2;
const BlockHalfKernels block_half_avx2 = kBlockHalfKernels;
}  // namespace sparsekit
