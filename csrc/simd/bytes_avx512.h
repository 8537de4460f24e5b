// Products of bytes in sums of 32 bits, AVX-512; with VNNI where the translation unit has it. After simd/avx512.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "simd/avx512.h"

namespace {

struct Bytes {
  using Sum = __m512i;  // 16 sums
#ifdef __AVX512VNNI__
  // Activations are stored as unsigned bytes, this much above their value: the instruction takes them so.
  static constexpr int kOffset = 128;
  using Weights = __m512i;
  static Weights load(const int8_t* p) { return _mm512_loadu_si512(p); }
  static Sum dot(Sum sum, Weights w, const uint8_t* four) { return _mm512_dpbusd_epi32(sum, spread(four), w); }
#else
  static constexpr int kOffset = 0;
  // Sizes times activations that took the weights' signs: pairs of such products fit into 16 bits.
  struct Weights {
    __m512i size;
    __mmask64 negative;
  };
  static Weights load(const int8_t* p) {
    const __m512i w = _mm512_loadu_si512(p);
    return {_mm512_abs_epi8(w), _mm512_movepi8_mask(w)};
  }
  static Sum dot(Sum sum, const Weights& w, const uint8_t* four) {
    const __m512i x = spread(four);
    const __m512i pairs = _mm512_maddubs_epi16(w.size, _mm512_mask_sub_epi8(x, w.negative, _mm512_setzero_si512(), x));
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
  }
#endif
  static Sum loadu(const int32_t* p) { return _mm512_loadu_si512(p); }
  static Simd::Vec floats(Sum sum) { return _mm512_cvtepi32_ps(sum); }
  // The greater of `most` and the size of v, as the bits of a float: NaN is greater than infinity.
  static Sum zero() { return _mm512_setzero_si512(); }
  static Sum larger(Sum most, Simd::Vec v) {
    return _mm512_max_epi32(most, _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff)));
  }
  static int32_t largest(Sum most) { return _mm512_reduce_max_epi32(most); }
  // Rounds 16 floats within 127 to bytes, ties to even, and adds kOffset.
  static void store(uint8_t* p, Simd::Vec v) {
    const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_xor_si128(bytes, _mm_set1_epi8(static_cast<char>(kOffset))));
  }

 private:
  static __m512i spread(const uint8_t* four) {
    int32_t x;
    std::memcpy(&x, four, sizeof x);
    return _mm512_set1_epi32(x);
  }
};

}  // namespace
