#include "simd/avx512.h"
// The instruction set first.
namespace {

struct Expand {
  static constexpr int kRows = 8;

  // From a register after a plain load: the form that expands from memory is many times slower.
  static Simd::Vec next(const uint16_t* word, int, const float*& values) {
    const __m512 weights = _mm512_maskz_expand_ps(*word, _mm512_loadu_ps(values));
    values += __builtin_popcount(*word);
    return weights;
  }
};

}  // namespace

#include "kernels/bitmask_body.h"

namespace sparsekit {
extern const BitmaskKernels bitmask_avx512;
const BitmaskKernels bitmask_avx512 = kBitmaskKernels;
}  // namespace sparsekit
