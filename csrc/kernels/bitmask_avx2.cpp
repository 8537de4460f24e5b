#include "simd/avx2.h"
// The instruction set first.
#include "kernels/bitmask_words.h"
#include "simd/ranks.h"

namespace {

struct Expand {
  static SPARSEKIT_INLINE Simd::Vec next(const uint16_t* words, int c, int part, const float*& values) {
    const unsigned bits = word_of(words, c) >> (8 * part) & 0xffu;
    const __m256i rank = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kRanks.rank[bits])));
    const __m256 spread = _mm256_permutevar8x32_ps(_mm256_loadu_ps(values), rank);
    values += __builtin_popcount(bits);
    // A lane without a weight has a negative rank; its sign fills the mask that clears it.
    return _mm256_andnot_ps(_mm256_castsi256_ps(_mm256_srai_epi32(rank, 31)), spread);
  }
};

}  // namespace

#include "kernels/bitmask_body.h"

namespace sparsekit {
extern const BitmaskKernels bitmask_avx2;
const BitmaskKernels bitmask_avx2 = kBitmaskKernels;
}  // namespace sparsekit
