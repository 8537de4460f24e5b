#include "simd/scalar.h"
// The instruction set first.
#include "kernels/csr_panels_body.h"

namespace sparsekit {
extern const CsrPanelsKernels csr_panels_scalar;
const CsrPanelsKernels csr_panels_scalar = kCsrPanelsKernels;
}  // namespace sparsekit
