// Products of bytes in sums of 32 bits, AVX2. After simd/avx2.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "simd/avx2.h"

namespace {

struct Bytes {
  static constexpr int kOffset = 0;
  using Sum = __m256i;  // 8 sums
  // Sizes times activations that took the weights' signs: pairs of such products fit into 16 bits.
  struct Weights {
    __m256i w, size;
  };
  static Weights load(const int8_t* p) {
    const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {w, _mm256_abs_epi8(w)};
  }
  static Sum dot(Sum sum, const Weights& w, const uint8_t* four) {
    int32_t x;
    std::memcpy(&x, four, sizeof x);
    const __m256i pairs = _mm256_maddubs_epi16(w.size, _mm256_sign_epi8(_mm256_set1_epi32(x), w.w));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  static Sum loadu(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static Simd::Vec floats(Sum sum) { return _mm256_cvtepi32_ps(sum); }
  // The greater of `most` and the size of v, as the bits of a float: NaN is greater than infinity.
  static Sum zero() { return _mm256_setzero_si256(); }
  static Sum larger(Sum most, Simd::Vec v) {
    return _mm256_max_epi32(most, _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7fffffff)));
  }
  static int32_t largest(Sum most) {
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1)));
  }
  // Rounds 8 floats within 127 to bytes, ties to even.
  static void store(uint8_t* p, Simd::Vec v) {
    const __m256i wide = _mm256_cvtps_epi32(v);
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
  }
};

}  // namespace
