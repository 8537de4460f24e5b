#include "simd/tiles_emulated.h"
// The tiles first.
#include "kernels/block_half_tiles.h"

namespace sparsekit {
extern const BlockHalfKernels block_half_emulated;
const BlockHalfKernels block_half_emulated = kBlockHalfKernels;
}  // namespace sparsekit
