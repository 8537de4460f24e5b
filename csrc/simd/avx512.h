// Sixteen floats, AVX-512 F, BW, DQ, VL.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "simd/unroll.h"

namespace {

struct Simd {
  static constexpr int kWidth = 16;
  using Vec = __m512;

  static Vec zero() { return _mm512_setzero_ps(); }
  static Vec set1(float v) { return _mm512_set1_ps(v); }
  static Vec load(const float* p) { return _mm512_load_ps(p); }
  static Vec loadu(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Vec v) { _mm512_store_ps(p, v); }
  static void storeu(float* p, Vec v) { _mm512_storeu_ps(p, v); }
  static Vec load_first(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static void store_first(float* p, Vec v, int n) { _mm512_mask_storeu_ps(p, first(n), v); }
  static Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
  static Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
  static Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
  static Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
  // The second operand where either is not a number, as the instruction has it.
  static Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
  static Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
  static Vec round(Vec v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  // v * 2^n for integers n in [-126, 127].
  static Vec scale(Vec v, Vec n) { return _mm512_scalef_ps(v, n); }
  static float sum(Vec v) { return _mm512_reduce_add_ps(v); }
  // Keeps a vector in its register: the compiler would rather load it again at each use.
  static void hold(Vec& v) { asm("" : "+v"(v)); }
  static void prefetch(const void* p) { __builtin_prefetch(p); }
  static void prefetch_to_write(void* p) { __builtin_prefetch(p, 1); }

  // The lanes [begin, end) of a vector. What the other lanes of an address point at is never touched.
  using Lanes = __mmask16;
  static Lanes lanes(int begin, int end) { return static_cast<Lanes>(first(end) & ~first(begin)); }
  static Vec load_lanes(const float* p, Lanes lanes) { return _mm512_maskz_loadu_ps(lanes, p); }
  static void store_lanes(float* p, Vec v, Lanes lanes) { _mm512_mask_storeu_ps(p, lanes, v); }
  // Lanes to be loaded from places that are a step apart: bit i of `lanes` is bit 2 * i of `spread`.
  struct Steps {
    Lanes lanes;
    __mmask32 spread;
  };
  static Steps steps(Lanes lanes) { return {lanes, spread_bits(lanes)}; }
  // Lane i is p[i * step].
  static Vec load_steps(const float* p, std::ptrdiff_t step, Steps chosen) {
    if (step == 1) return load_lanes(p, chosen.lanes);
    if (step == 2) {
      const Vec low = _mm512_maskz_loadu_ps(static_cast<Lanes>(chosen.spread), p);
      const Vec high = _mm512_maskz_loadu_ps(static_cast<Lanes>(chosen.spread >> 16), p + 16);
      const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
      return _mm512_permutex2var_ps(low, even, high);
    }
    alignas(64) float out[16] = {};
    for (int i = 0; i < 16; ++i)
      if (chosen.lanes >> i & 1) out[i] = p[i * step];
    return load(out);
  }
  // Lane i of out[k] is p[2 * i + k], for k < 3.
  static void load_second(const float* p, const Steps* chosen, Vec* out) {
    const unsigned read = second(chosen);
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    const Vec low = _mm512_maskz_loadu_ps(static_cast<Lanes>(read), p);
    const Vec high = _mm512_maskz_loadu_ps(static_cast<Lanes>(read >> 16), p + 16);
    const Vec last = _mm512_maskz_loadu_ps(chosen[2].lanes >> 15, p + 32),
              evens = _mm512_permutex2var_ps(low, even, high);
    out[0] = _mm512_maskz_mov_ps(chosen[0].lanes, evens);
    out[1] = _mm512_maskz_permutex2var_ps(chosen[1].lanes, low, odd, high);
    out[2] = _mm512_castsi512_ps(
        _mm512_maskz_alignr_epi32(chosen[2].lanes, _mm512_castps_si512(last), _mm512_castps_si512(evens), 1));
  }
  // Lane i is the pair of halves (p[i * step], q[i * step]); a null q is 0.
  static Vec load_pairs(const uint16_t* p, const uint16_t* q, std::ptrdiff_t step, Steps chosen) {
    const __m512i low = low_halves(p, step, chosen);
    if (q == nullptr) return _mm512_castsi512_ps(low);
    return _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(low_halves(q, step, chosen), 16)));
  }
  // Lane i of out[k] is the pair of halves (p[2 * i + k], q[2 * i + k]), for k < 3; a null q is 0.
  static void load_second_pairs(const uint16_t* p, const uint16_t* q, const Steps* chosen, Vec* out) {
    __m512i low[3], high[3] = {};
    second_halves(p, chosen, low);
    if (q != nullptr) second_halves(q, chosen, high);
    SPARSEKIT_UNROLL
    for (int k = 0; k < 3; ++k) out[k] = _mm512_castsi512_ps(_mm512_or_si512(low[k], _mm512_slli_epi32(high[k], 16)));
  }
  // sum + w0 * x0 + w1 * x1 for the pairs of bfloat16 in each lane; the instruction takes subnormals for 0.
  static Vec mac_pairs(Vec w, Vec x, Vec sum) {
#ifdef __AVX512BF16__
    return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)x);
#else
    const __m512i a = _mm512_castps_si512(w), b = _mm512_castps_si512(x), high = _mm512_set1_epi32(-65536);
    sum = fma(_mm512_castsi512_ps(_mm512_slli_epi32(a, 16)), _mm512_castsi512_ps(_mm512_slli_epi32(b, 16)), sum);
    return fma(_mm512_castsi512_ps(_mm512_and_si512(a, high)), _mm512_castsi512_ps(_mm512_and_si512(b, high)), sum);
#endif
  }
  // The same with one pair for all lanes. GCC would broadcast it in an instruction of its own, which costs a slot that
  // multiply-adds need.
  static Vec mac_pair(Vec w, const float* x, Vec sum) {
#ifdef __AVX512BF16__
    asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(w), "m"(*x));
    return sum;
#else
    return mac_pairs(w, set1(*x), sum);
#endif
  }
  // bfloat16 to fp32.
  static Vec load_halves(const uint16_t* p, Lanes lanes) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, p)), 16));
  }
  // Rounds to bfloat16, ties to even.
  static void store_halves(uint16_t* p, Vec v, Lanes lanes) {
#ifdef __AVX512BF16__
    const __m256i halves = (__m256i)_mm512_cvtneps_pbh(v);
#else
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i chosen = _mm512_mask_blend_epi32(nan, rounded, _mm512_set1_epi32(0x7fc00000));
    const __m256i halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32(chosen, 16));
#endif
    _mm256_mask_storeu_epi16(p, lanes, halves);
  }
  static Vec merge(Vec a, Vec b) {
    return _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(a), _mm512_castps_si512(b)));
  }

  // to[j * to_stride + i] = from[i * from_stride + j] for i, j < kWidth.
  static void transpose(const float* from, std::ptrdiff_t from_stride, float* to, std::ptrdiff_t to_stride) {
    Vec a[16], b[16];
    SPARSEKIT_UNROLL
    for (int i = 0; i < 16; ++i) a[i] = loadu(from + i * from_stride);
    SPARSEKIT_UNROLL
    for (int i = 0; i < 16; i += 2) {
      b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
      b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    SPARSEKIT_UNROLL
    for (int i = 0; i < 16; i += 4) {
      a[i] = low_pairs(b[i], b[i + 2]);
      a[i + 1] = high_pairs(b[i], b[i + 2]);
      a[i + 2] = low_pairs(b[i + 1], b[i + 3]);
      a[i + 3] = high_pairs(b[i + 1], b[i + 3]);
    }
    SPARSEKIT_UNROLL
    for (int i = 0; i < 4; ++i) {
      b[i] = _mm512_shuffle_f32x4(a[i], a[i + 4], 0x88);
      b[i + 4] = _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd);
      b[i + 8] = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0x88);
      b[i + 12] = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0xdd);
    }
    SPARSEKIT_UNROLL
    for (int i = 0; i < 8; ++i) {
      storeu(to + i * to_stride, _mm512_shuffle_f32x4(b[i], b[i + 8], 0x88));
      storeu(to + (i + 8) * to_stride, _mm512_shuffle_f32x4(b[i], b[i + 8], 0xdd));
    }
  }

 private:
  static __mmask16 first(int n) { return static_cast<__mmask16>(n >= 16 ? 0xffff : (1u << n) - 1); }
  static __m512i low_halves(const uint16_t* p, std::ptrdiff_t step, Steps chosen) {
    if (step == 1) return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(chosen.lanes, p));
    if (step == 2) return _mm512_and_si512(_mm512_maskz_loadu_epi16(chosen.spread, p), _mm512_set1_epi32(0xffff));
    alignas(64) uint32_t out[16] = {};
    for (int i = 0; i < 16; ++i)
      if (chosen.lanes >> i & 1) out[i] = p[i * step];
    return _mm512_load_si512(out);
  }
  // The first 32 elements that three taps a stride of 2 apart read.
  static __mmask32 second(const Steps* chosen) {
    return chosen[0].spread | chosen[1].spread << 1 | chosen[2].spread << 2;
  }
  static void second_halves(const uint16_t* p, const Steps* chosen, __m512i* out) {
    const __m512i read = _mm512_maskz_loadu_epi16(second(chosen), p);
    const __m512i last = _mm512_maskz_loadu_epi16(chosen[2].lanes >> 15, p + 32);
    const __m512i evens = _mm512_and_si512(read, _mm512_set1_epi32(0xffff));
    out[0] = _mm512_maskz_mov_epi32(chosen[0].lanes, evens);
    out[1] = _mm512_maskz_srli_epi32(chosen[1].lanes, read, 16);
    out[2] = _mm512_maskz_alignr_epi32(chosen[2].lanes, last, evens, 1);
  }
  // Bit i of `bits` at 2 * i.
  static unsigned spread_bits(unsigned bits) {
    bits = (bits | bits << 8) & 0x00ff00ff;
    bits = (bits | bits << 4) & 0x0f0f0f0f;
    bits = (bits | bits << 2) & 0x33333333;
    return (bits | bits << 1) & 0x55555555;
  }
  static Vec low_pairs(Vec a, Vec b) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  }
  static Vec high_pairs(Vec a, Vec b) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  }
};

}  // namespace
