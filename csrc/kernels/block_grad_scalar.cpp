#include "simd/scalar.h"
// The instruction set first.
#include "kernels/block_grad_body.h"

namespace sparsekit {
extern const BlockGradKernels block_grad_scalar;
const BlockGradKernels block_grad_scalar = kBlockGradKernels;
}  // namespace sparsekit
