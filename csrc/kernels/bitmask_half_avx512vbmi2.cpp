#include "simd/avx512.h"
// The instruction set first.
#include "kernels/bitmask_half.h"

namespace {

struct Expand {
  static constexpr sparsekit::HalfOrder order = sparsekit::HalfOrder::by_output;
  // From a register after a plain load: the form that expands from memory is many times slower.
  static SPARSEKIT_INLINE const uint16_t* next(uint32_t word, const uint16_t* values, Simd::Vec (&weights)[1]) {
    weights[0] = _mm512_castsi512_ps(_mm512_maskz_expand_epi16(word, _mm512_loadu_si512(values)));
    return values + __builtin_popcount(word);
  }
};

}  // namespace

#include "kernels/bitmask_half_body.h"

namespace sparsekit {
extern const BitmaskHalfKernels bitmask_half_avx512vbmi2;
const BitmaskHalfKernels bitmask_half_avx512vbmi2 = kBitmaskHalfKernels;
}  // namespace sparsekit
