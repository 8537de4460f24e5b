#include "simd/avx2.h"
// The instruction set first.
#include "kernels/block_csr_body.h"

namespace sparsekit {
extern const BlockCsrKernels block_csr_avx2;
const BlockCsrKernels block_csr_avx2 = kBlockCsrKernels;
}  // namespace sparsekit
