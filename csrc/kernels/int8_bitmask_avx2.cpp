#include "simd/bytes_avx2.h"
// The instruction set first.
#include "simd/unroll.h"

namespace {

// For each byte of bits, where each of 8 bytes finds its value: its rank among the set bits, or -1, which a shuffle
// makes 0.
struct Ranks {
  alignas(64) int8_t rank[256][8];
  constexpr Ranks() : rank() {
    for (int byte = 0; byte < 256; ++byte) {
      int8_t next = 0;
      for (int j = 0; j < 8; ++j) rank[byte][j] = byte >> j & 1 ? next++ : int8_t{-1};
    }
  }
};
constexpr Ranks kRanks;

struct Expand {
  using Sum = __m256i;
  struct Weights {
    __m128i sixteen[4];
  };
  struct Words {
    explicit Words(const uint64_t* words) : bits(words) {}
    const uint64_t* bits;
  };
  static Sum zero() { return _mm256_setzero_si256(); }
  static SPARSEKIT_INLINE Weights next(const Words& words, int i, const int8_t*& values) {
    const uint64_t bits = words.bits[i];
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
  static int32_t total(Sum sum) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
  }

 private:
  static SPARSEKIT_INLINE __m128i eight(uint64_t bits, const int8_t*& values) {
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
