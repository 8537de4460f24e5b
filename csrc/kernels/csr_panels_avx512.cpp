#include "simd/avx512.h"
// The instruction set first.
#include "kernels/csr_panels_body.h"

namespace sparsekit {
extern const CsrPanelsKernels csr_panels_avx512;
const CsrPanelsKernels csr_panels_avx512 = kCsrPanelsKernels;
}  // namespace sparsekit
