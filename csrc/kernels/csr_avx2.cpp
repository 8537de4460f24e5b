#include "simd/avx2.h"
// The instruction set first.
#include "kernels/csr_body.h"

namespace sparsekit {
extern const CsrKernels csr_avx2;
const CsrKernels csr_avx2 = kCsrKernels;
}  // namespace sparsekit
