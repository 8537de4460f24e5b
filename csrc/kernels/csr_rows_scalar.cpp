#include "simd/scalar.h"
// The instruction set first.
#include "kernels/csr_rows_body.h"

namespace sparsekit {
extern const CsrRowsKernels csr_rows_scalar;
const CsrRowsKernels csr_rows_scalar = kCsrRowsKernels;
}  // namespace sparsekit
