#include "simd/scalar.h"
// The instruction set first.
#include "kernels/bitmask_half.h"

namespace {

struct Expand {
  static constexpr sparsekit::HalfOrder order = sparsekit::HalfOrder::by_output;
  static const uint16_t* next(uint32_t word, const uint16_t* values, Simd::Vec (&weights)[4]) {
    alignas(64) uint32_t pairs[sparsekit::kHalfStrip] = {};
    for (int i = 0; i < 32; ++i)
      if (word >> i & 1) pairs[i / 2] |= static_cast<uint32_t>(*values++) << 16 * (i % 2);
    for (int v = 0; v < 4; ++v) weights[v] = Simd::load(reinterpret_cast<const float*>(pairs + 4 * v));
    return values;
  }
};

}  // namespace

#include "kernels/bitmask_half_body.h"

namespace sparsekit {
extern const BitmaskHalfKernels bitmask_half_scalar;
const BitmaskHalfKernels bitmask_half_scalar = kBitmaskHalfKernels;
}  // namespace sparsekit
