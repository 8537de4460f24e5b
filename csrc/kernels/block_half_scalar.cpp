#include "simd/scalar.h"
// The instruction set first.
#include "kernels/block_half_body.h"

namespace sparsekit {
extern const BlockHalfKernels block_half_scalar;
const BlockHalfKernels block_half_scalar = kBlockHalfKernels;
}  // namespace sparsekit
