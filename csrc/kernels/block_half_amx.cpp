#include "simd/amx.h"
// The instruction set first.
#include "kernels/block_half_tiles.h"

namespace sparsekit {
extern const BlockHalfKernels block_half_amx;
const BlockHalfKernels block_half_amx = kBlockHalfKernels;
}  // namespace sparsekit
