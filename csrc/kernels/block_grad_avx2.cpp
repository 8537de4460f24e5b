#include "simd/avx2.h"
// The instruction set first.
#include "kernels/block_grad_body.h"

namespace sparsekit {
extern const BlockGradKernels block_grad_avx2;
const BlockGradKernels block_grad_avx2 = kBlockGradKernels;
}  // namespace sparsekit
