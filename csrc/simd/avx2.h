// Eight floats, AVX2 and FMA.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "simd/unroll.h"

namespace {

struct Simd {
  static constexpr int kWidth = 8;
  using Vec = __m256;

  static Vec zero() { return _mm256_setzero_ps(); }
  static Vec set1(float v) { return _mm256_set1_ps(v); }
  static Vec load(const float* p) { return _mm256_load_ps(p); }
  static Vec loadu(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Vec v) { _mm256_store_ps(p, v); }
  static void storeu(float* p, Vec v) { _mm256_storeu_ps(p, v); }
  static Vec load_first(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
  static void store_first(float* p, Vec v, int n) { _mm256_maskstore_ps(p, first(n), v); }
  static Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
  static Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
  static Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
  static Vec div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
  // The second operand where either is not a number, as the instruction has it.
  static Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
  static Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
  static Vec round(Vec v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  // v * 2^n for integers n in [-126, 127].
  static Vec scale(Vec v, Vec n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_mul_ps(v, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
  }
  static float sum(Vec v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
  // Keeps a vector in its register: the compiler would rather load it again at each use.
  static void hold(Vec& v) { asm("" : "+x"(v)); }
  static void prefetch(const void* p) { __builtin_prefetch(p); }
  static void prefetch_to_write(void* p) { __builtin_prefetch(p, 1); }

  // The lanes [begin, end) of a vector. What the other lanes of an address point at is never touched.
  using Lanes = __m256i;
  static Lanes lanes(int begin, int end) { return _mm256_andnot_si256(first(begin), first(end)); }
  static Vec load_lanes(const float* p, Lanes lanes) { return _mm256_maskload_ps(p, lanes); }
  static void store_lanes(float* p, Vec v, Lanes lanes) { _mm256_maskstore_ps(p, lanes, v); }
  // Lanes to be loaded from places that are a step apart.
  using Steps = Lanes;
  static Steps steps(Lanes lanes) { return lanes; }
  // Lane i is p[i * step].
  static Vec load_steps(const float* p, std::ptrdiff_t step, Steps lanes) {
    if (step == 1) return load_lanes(p, lanes);
    const int chosen = _mm256_movemask_ps(_mm256_castsi256_ps(lanes));
    alignas(32) float out[8] = {};
    for (int i = 0; i < 8; ++i)
      if (chosen >> i & 1) out[i] = p[i * step];
    return load(out);
  }
  // Lane i of out[k] is p[2 * i + k], for k < 3.
  static void load_second(const float* p, const Steps* chosen, Vec* out) {
    for (int k = 0; k < 3; ++k) out[k] = load_steps(p + k, 2, chosen[k]);
  }
  // Lane i is the pair of halves (p[i * step], q[i * step]); a null q is 0.
  static Vec load_pairs(const uint16_t* p, const uint16_t* q, std::ptrdiff_t step, Steps lanes) {
    alignas(32) uint32_t out[kWidth] = {};
    for (int i = 0; i < kWidth; ++i)
      if (holds(lanes, i)) out[i] = p[i * step] | (q == nullptr ? 0u : static_cast<uint32_t>(q[i * step]) << 16);
    return loadu(reinterpret_cast<const float*>(out));
  }
  // Lane i of out[k] is the pair of halves (p[2 * i + k], q[2 * i + k]), for k < 3; a null q is 0.
  static void load_second_pairs(const uint16_t* p, const uint16_t* q, const Steps* chosen, Vec* out) {
    for (int k = 0; k < 3; ++k) out[k] = load_pairs(p + k, q == nullptr ? q : q + k, 2, chosen[k]);
  }
  // sum + w0 * x0 + w1 * x1 for the pairs of bfloat16 in each lane.
  static Vec mac_pairs(Vec w, Vec x, Vec sum) { return fma(high(w), high(x), fma(low(w), low(x), sum)); }
  // The same with one pair for all lanes.
  static Vec mac_pair(Vec w, const float* x, Vec sum) { return mac_pairs(w, set1(*x), sum); }
  // bfloat16 to fp32.
  static Vec load_halves(const uint16_t* p, Lanes lanes) {
    alignas(32) uint32_t out[kWidth] = {};
    for (int i = 0; i < kWidth; ++i)
      if (holds(lanes, i)) out[i] = static_cast<uint32_t>(p[i]) << 16;
    return loadu(reinterpret_cast<const float*>(out));
  }
  // Rounds to bfloat16, ties to even.
  static void store_halves(uint16_t* p, Vec v, Lanes lanes) {
    alignas(32) uint32_t bits[kWidth];
    std::memcpy(bits, &v, sizeof bits);
    for (int i = 0; i < kWidth; ++i)
      if (holds(lanes, i))
        p[i] = static_cast<uint16_t>(
            (bits[i] & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : (bits[i] + 0x7fff + (bits[i] >> 16 & 1)) >> 16);
  }
  static Vec merge(Vec a, Vec b) { return _mm256_or_ps(a, b); }

  // to[j * to_stride + i] = from[i * from_stride + j] for i, j < kWidth.
  static void transpose(const float* from, std::ptrdiff_t from_stride, float* to, std::ptrdiff_t to_stride) {
    Vec a[8], b[8];
    SPARSEKIT_UNROLL
    for (int i = 0; i < 8; ++i) a[i] = loadu(from + i * from_stride);
    SPARSEKIT_UNROLL
    for (int i = 0; i < 4; ++i) {
      b[2 * i] = _mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]);
      b[2 * i + 1] = _mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]);
    }
    SPARSEKIT_UNROLL
    for (int i = 0; i < 2; ++i) {
      a[4 * i] = _mm256_shuffle_ps(b[4 * i], b[4 * i + 2], 0x44);
      a[4 * i + 1] = _mm256_shuffle_ps(b[4 * i], b[4 * i + 2], 0xee);
      a[4 * i + 2] = _mm256_shuffle_ps(b[4 * i + 1], b[4 * i + 3], 0x44);
      a[4 * i + 3] = _mm256_shuffle_ps(b[4 * i + 1], b[4 * i + 3], 0xee);
    }
    SPARSEKIT_UNROLL
    for (int i = 0; i < 4; ++i) {
      storeu(to + i * to_stride, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
      storeu(to + (i + 4) * to_stride, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
    }
  }

 private:
  static bool holds(Lanes lanes, int i) { return _mm256_movemask_ps(_mm256_castsi256_ps(lanes)) >> i & 1; }
  static Vec low(Vec v) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(v), 16)); }
  static Vec high(Vec v) { return _mm256_and_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32(-65536))); }
  static __m256i first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
};

}  // namespace
