#include "simd/bytes_scalar.h"
// The instruction set first.
#include "kernels/int8_block_csr_body.h"

namespace sparsekit {
extern const Int8BlockCsrKernels int8_block_csr_scalar;
const Int8BlockCsrKernels int8_block_csr_scalar = kInt8BlockCsrKernels;
}  // namespace sparsekit
