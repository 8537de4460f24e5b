#include "simd/avx512.h"
// The instruction set first.
#include "kernels/block_grad_body.h"

namespace sparsekit {
extern const BlockGradKernels block_grad_avx512;
const BlockGradKernels block_grad_avx512 = kBlockGradKernels;
}  // namespace sparsekit
