#include "simd/scalar.h"
// The instruction set first.
#include "kernels/probe_body.h"

namespace sparsekit {
extern const ProbeKernels probe_scalar;
const ProbeKernels probe_scalar = kProbeKernels;
}  // namespace sparsekit
