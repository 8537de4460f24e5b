#include "simd/avx512.h"
// The instruction set first.
#include "kernels/bitmask_words.h"

namespace {

struct Expand {
  // From a register after a plain load: the form that expands from memory is many times slower.
  static SPARSEKIT_INLINE Simd::Vec next(const uint16_t* words, int c, int, const float*& values) {
    const unsigned bits = word_of(words, c);
    const __m512 weights = _mm512_maskz_expand_ps(static_cast<__mmask16>(bits), _mm512_loadu_ps(values));
    values += __builtin_popcount(bits);
    return weights;
  }
};

}  // namespace

#include "kernels/bitmask_body.h"

namespace sparsekit {
extern const BitmaskKernels bitmask_avx512;
const BitmaskKernels bitmask_avx512 = kBitmaskKernels;
}  // namespace sparsekit
