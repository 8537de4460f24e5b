#include "simd/scalar.h"
// The instruction set first.
#include "kernels/block_csr_body.h"

namespace sparsekit {
extern const BlockCsrKernels block_csr_scalar;
const BlockCsrKernels block_csr_scalar = kBlockCsrKernels;
}  // namespace sparsekit
