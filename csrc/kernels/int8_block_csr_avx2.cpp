#include "simd/bytes_avx2.h"
// The instruction set first.
#include "kernels/int8_block_csr_body.h"

namespace sparsekit {
extern const Int8BlockCsrKernels int8_block_csr_avx2;
const Int8BlockCsrKernels int8_block_csr_avx2 = kInt8BlockCsrKernels;
}  // namespace sparsekit
