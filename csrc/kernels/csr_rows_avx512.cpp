#include "simd/avx512.h"
// The instruction set first.
#include "kernels/csr_rows_body.h"

namespace sparsekit {
extern const CsrRowsKernels csr_rows_avx512;
const CsrRowsKernels csr_rows_avx512 = kCsrRowsKernels;
}  // namespace sparsekit
