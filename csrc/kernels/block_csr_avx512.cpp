#include "simd/avx512.h"
// The instruction set first.
#include "kernels/block_csr_body.h"

namespace sparsekit {
extern const BlockCsrKernels block_csr_avx512;
const BlockCsrKernels block_csr_avx512 = kBlockCsrKernels;
}  // namespace sparsekit
