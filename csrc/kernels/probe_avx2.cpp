#include "simd/avx2.h"
// The instruction set first.
#include "kernels/probe_body.h"

namespace sparsekit {
extern const ProbeKernels probe_avx2;
const ProbeKernels probe_avx2 = kProbeKernels;
}  // namespace sparsekit
