#include "simd/scalar.h"
// The instruction set first.
#include "kernels/bitmask_words.h"

namespace {

struct Expand {
  static SPARSEKIT_INLINE Simd::Vec next(const uint16_t* words, int c, int part, const float*& values) {
    const unsigned bits = word_of(words, c) >> (4 * part);
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
