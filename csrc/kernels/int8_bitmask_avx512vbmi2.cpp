#include "simd/bytes_avx512.h"
// The instruction set first.
#include "simd/unroll.h"

namespace {

struct Expand {
  using Sum = __m512i;
  using Weights = __m512i;
  static Sum zero() { return _mm512_setzero_si512(); }
  // The instruction waits for its destination even where it overwrites all of it; on Zen 4 that makes it four times
  // slower, unless the destination was cleared just before, which takes no time. GCC would leave the clearing out.
  static SPARSEKIT_INLINE Weights next(uint64_t bits, const int8_t*& values) {
    __m512i cleared = _mm512_setzero_si512(), packed = _mm512_loadu_si512(values);
    asm("" : "+v"(cleared), "+v"(packed));
    values += __builtin_popcountll(bits);
    return _mm512_mask_expand_epi8(cleared, bits, packed);
  }
  static SPARSEKIT_INLINE Sum dot(Sum sum, Weights weights, const uint8_t* x) {
    return _mm512_dpbusd_epi32(sum, _mm512_loadu_si512(x), weights);
  }
  static void totals(const Sum* sums, int32_t* to) {
    const __m512i a =
        _mm512_add_epi32(_mm512_unpacklo_epi32(sums[0], sums[1]), _mm512_unpackhi_epi32(sums[0], sums[1]));
    const __m512i b =
        _mm512_add_epi32(_mm512_unpacklo_epi32(sums[2], sums[3]), _mm512_unpackhi_epi32(sums[2], sums[3]));
    const __m512i four = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    const __m256i two = _mm256_add_epi32(_mm512_castsi512_si256(four), _mm512_extracti64x4_epi64(four, 1));
    const __m128i one = _mm_add_epi32(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), one);
  }
};

}  // namespace

#include "kernels/int8_bitmask_body.h"

namespace sparsekit {
extern const Int8BitmaskKernels int8_bitmask_avx512vbmi2;
const Int8BitmaskKernels int8_bitmask_avx512vbmi2 = kInt8BitmaskKernels;
}  // namespace sparsekit
