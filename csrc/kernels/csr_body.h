// The CSR kernels, written once over `Simd`; each translation unit includes one instruction set before this file.
#pragma once

#include "kernels/csr.h"
#include "kernels/product.h"
#include "simd/unroll.h"

namespace {

using sparsekit::CsrView;
using sparsekit::Product;

// One dot product. The entries of all rows lie end to end, so that reading ahead past a row's end is of use.
template <class Index>
float dot(const float* values, const Index* indices, int64_t count, const float* x) {
#if defined(__SSE4_1__)
  constexpr int64_t kAhead = 512;  // entries, about 2 KiB of values
  // Inserts beat the gather instruction on the processors measured, and no microcode patch slows them down.
  const auto four = [x](const Index* i) {
    const __m128 low = _mm_insert_ps(_mm_load_ss(x + i[0]), _mm_load_ss(x + i[1]), 0x10);
    const __m128 high = _mm_insert_ps(_mm_load_ss(x + i[2]), _mm_load_ss(x + i[3]), 0x10);
    return _mm_movelh_ps(low, high);
  };
  __m128 a = _mm_setzero_ps(), b = a, c = a, d = a;
  int64_t p = 0;
  for (; p + 16 <= count; p += 16) {
    Simd::prefetch(values + p + kAhead);
    if (p % 32 == 0) Simd::prefetch(indices + p + kAhead);
    a = _mm_fmadd_ps(_mm_loadu_ps(values + p), four(indices + p), a);
    b = _mm_fmadd_ps(_mm_loadu_ps(values + p + 4), four(indices + p + 4), b);
    c = _mm_fmadd_ps(_mm_loadu_ps(values + p + 8), four(indices + p + 8), c);
    d = _mm_fmadd_ps(_mm_loadu_ps(values + p + 12), four(indices + p + 12), d);
  }
  for (; p + 4 <= count; p += 4) a = _mm_fmadd_ps(_mm_loadu_ps(values + p), four(indices + p), a);
  a = _mm_add_ps(_mm_add_ps(a, b), _mm_add_ps(c, d));
  a = _mm_add_ps(a, _mm_movehl_ps(a, a));
  float sum = _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
#else
  float part[4] = {0, 0, 0, 0};
  int64_t p = 0;
  for (; p + 4 <= count; p += 4) {
    SPARSEKIT_UNROLL
    for (int j = 0; j < 4; ++j) part[j] += values[p + j] * x[indices[p + j]];
  }
  float sum = (part[0] + part[1]) + (part[2] + part[3]);
#endif
  for (; p < count; ++p) sum += values[p] * x[indices[p]];
  return sum;
}

template <class Index>
void multiply_rows_of(const CsrView& w, const Product& product, int64_t begin, int64_t end) {
  const Index* indices = static_cast<const Index*>(w.indices);
  for (int64_t n = begin; n < end; ++n) {
    const int64_t from = w.offsets[n];
    const float start = product.bias == nullptr ? 0.0f : product.bias[n];
    for (int64_t m = 0; m < product.batch; ++m)
      product.y[m * w.rows + n] =
          start + dot(w.values + from, indices + from, w.offsets[n + 1] - from, product.x + m * product.x_stride);
  }
}

void multiply_rows(const CsrView& w, const Product& product, int64_t begin, int64_t end) {
  if (w.wide_indices)
    multiply_rows_of<int32_t>(w, product, begin, end);
  else
    multiply_rows_of<uint16_t>(w, product, begin, end);
}

constexpr sparsekit::CsrKernels kCsrKernels = {multiply_rows};

}  // namespace
