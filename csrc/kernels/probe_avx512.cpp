#include "simd/avx512.h"
// The instruction set first.
#include "kernels/probe_body.h"

namespace sparsekit {
extern const ProbeKernels probe_avx512;
const ProbeKernels probe_avx512 = kProbeKernels;
}  // namespace sparsekit
