#include "simd/avx2.h"
// The instruction set first.
#include "kernels/csr_panels_body.h"

namespace sparsekit {
extern const CsrPanelsKernels csr_panels_avx2;
const CsrPanelsKernels csr_panels_avx2 = kCsrPanelsKernels;
}  // namespace sparsekit
