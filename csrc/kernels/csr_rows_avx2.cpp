#include "simd/avx2.h"
// The instruction set first.
#include "kernels/csr_rows_body.h"

namespace sparsekit {
extern const CsrRowsKernels csr_rows_avx2;
const CsrRowsKernels csr_rows_avx2 = kCsrRowsKernels;
}  // namespace sparsekit
