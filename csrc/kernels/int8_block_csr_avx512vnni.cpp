#include "simd/bytes_avx512.h"
// The instruction set first.
#include "kernels/int8_block_csr_body.h"

namespace sparsekit {
extern const Int8BlockCsrKernels int8_block_csr_avx512vnni;
const Int8BlockCsrKernels int8_block_csr_avx512vnni = kInt8BlockCsrKernels;
}  // namespace sparsekit
