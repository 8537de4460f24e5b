#include "simd/avx512.h"
// The instruction set first.
#include "kernels/csr_body.h"

namespace sparsekit {
extern const CsrKernels csr_avx512;
const CsrKernels csr_avx512 = kCsrKernels;
}  // namespace sparsekit
