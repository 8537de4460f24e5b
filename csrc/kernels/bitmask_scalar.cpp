#include "simd/scalar.h"
// The instruction set first.
namespace {

struct Expand {
  static constexpr int kRows = 2;

  static Simd::Vec next(const uint16_t* word, int part, const float*& values) {
    const unsigned bits = static_cast<unsigned>(*word) >> (4 * part);
    Simd::Vec weights = Simd::zero();
    for (int j = 0; j < 4; ++j)
      if (bits >> j & 1u) weights[j] = *values++;
    return weights;
  }
};

}  // namespace

#include "kernels/bitmask_body.h"

namespace sparsekit {
extern const BitmaskKernels bitmask_scalar;
const BitmaskKernels bitmask_scalar = kBitmaskKernels;
}  // namespace sparsekit
