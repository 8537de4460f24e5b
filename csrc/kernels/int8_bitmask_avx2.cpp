#include "simd/bytes_avx2.h"
// The instruction set first.
#include "simd/ranks.h"
#include "simd/unroll.h"

namespace {

struct Expand {
  using Sum = __m256i;
  struct Weights {
    __m128i sixteen[4];
  };
  static Sum zero() { return _mm256_setzero_si256(); }
  static SPARSEKIT_INLINE Weights next(uint64_t bits, const int8_t*& values) {
    Weights weights;
    SPARSEKIT_UNROLL
    for (int j = 0; j < 4; ++j) {
      const __m128i low = eight(bits >> (16 * j) & 0xff, values);
      weights.sixteen[j] = _mm_unpacklo_epi64(low, eight(bits >> (16 * j + 8) & 0xff, values));
    }
    return weights;
  }
  static SPARSEKIT_INLINE Sum dot(Sum sum, const Weights& weights, const uint8_t* x) {
    SPARSEKIT_UNROLL
    for (int i = 0; i < 4; ++i) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x + 16 * i));
      const __m256i products = _mm256_madd_epi16(_mm256_cvtepi8_epi16(weights.sixteen[i]), _mm256_cvtepi8_epi16(bytes));
      sum = _mm256_add_epi32(sum, products);
    }
    return sum;
  }
  static void totals(const Sum* sums, int32_t* to) {
    const __m256i four = _mm256_hadd_epi32(_mm256_hadd_epi32(sums[0], sums[1]), _mm256_hadd_epi32(sums[2], sums[3]));
    const __m128i one = _mm_add_epi32(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), one);
  }

 private:
  static SPARSEKIT_INLINE __m128i eight(uint64_t bits, const int8_t*& values) {
    // A shuffle makes a rank of -1 zero.
    const __m128i rank = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kRanks.rank[bits]));
    const __m128i spread = _mm_shuffle_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(values)), rank);
    values += __builtin_popcountll(bits);
    return spread;
  }
};

}  // namespace

#include "kernels/int8_bitmask_body.h"

namespace sparsekit {
extern const Int8BitmaskKernels int8_bitmask_avx2;
const Int8BitmaskKernels int8_bitmask_avx2 = kInt8BitmaskKernels;
}  // namespace sparsekit
