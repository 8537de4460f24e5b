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
  static float sum(Vec v) { return _mm512_reduce_add_ps(v); }
  static void prefetch(const void* p) { __builtin_prefetch(p); }
  static void prefetch_to_write(void* p) { __builtin_prefetch(p, 1); }

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
  static Vec low_pairs(Vec a, Vec b) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  }
  static Vec high_pairs(Vec a, Vec b) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  }
};

}  // namespace
