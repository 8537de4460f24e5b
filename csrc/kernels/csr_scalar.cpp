#include "simd/scalar.h"
// The instruction set first.
#include "kernels/csr_body.h"

namespace sparsekit {
extern const CsrKernels csr_scalar;
const CsrKernels csr_scalar = kCsrKernels;
}  // namespace sparsekit
