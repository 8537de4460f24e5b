#include "simd/bytes_avx512.h"
// The instruction set first.
#include "simd/unroll.h"

namespace {

struct Expand {
  using Sum = __m512i;
  using Weights = __m512i;
  // Each byte's bits, and how many there are in the bytes before it, for all words at once.
  struct Words {
    explicit Words(const uint64_t* words) : words(words), bits(_mm512_loadu_si512(words)) {
      before = _mm512_popcnt_epi8(bits);
      before = _mm512_add_epi8(before, _mm512_slli_epi64(before, 8));
      before = _mm512_add_epi8(before, _mm512_slli_epi64(before, 16));
      before = _mm512_slli_epi64(_mm512_add_epi8(before, _mm512_slli_epi64(before, 32)), 8);
    }
    const uint64_t* words;
    __m512i bits, before;
  };
  static Sum zero() { return _mm512_setzero_si512(); }
  // Each lane counts the bits below its own and picks that value: on Zen 4 this is faster than the expand instruction.
  static SPARSEKIT_INLINE Weights next(const Words& words, int i, const int8_t*& values) {
    const __m512i below = _mm512_set1_epi64(0x7f3f1f0f07030100);
    const __m512i eighth = _mm512_add_epi8(
        _mm512_shuffle_epi8(_mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0),
                            _mm512_and_si512(_mm512_set1_epi8(8), _mm512_set_epi64(-1, 0, -1, 0, -1, 0, -1, 0))),
        _mm512_set1_epi8(static_cast<char>(8 * i)));
    const __m512i own = _mm512_and_si512(_mm512_permutexvar_epi8(eighth, words.bits), below);
    const __m512i rank = _mm512_add_epi8(_mm512_permutexvar_epi8(eighth, words.before), _mm512_popcnt_epi8(own));
    const __m512i weights = _mm512_maskz_permutexvar_epi8(words.words[i], rank, _mm512_loadu_si512(values));
    values += __builtin_popcountll(words.words[i]);
    return weights;
  }
  static SPARSEKIT_INLINE Sum dot(Sum sum, Weights weights, const uint8_t* x) {
    return _mm512_dpbusd_epi32(sum, _mm512_loadu_si512(x), weights);
  }
  static int32_t total(Sum sum) { return _mm512_reduce_add_epi32(sum); }
};

}  // namespace

#include "kernels/int8_bitmask_body.h"

namespace sparsekit {
extern const Int8BitmaskKernels int8_bitmask_avx512vbmi2;
const Int8BitmaskKernels int8_bitmask_avx512vbmi2 = kInt8BitmaskKernels;
}  // namespace sparsekit
