// The CSR kernels, written once over `Simd`; each translation unit includes one instruction set before this file.
#pragma once

#include "kernels/csr.h"
#include "kernels/panel.h"
#include "simd/unroll.h"

namespace {

using sparsekit::CsrChunk;
using sparsekit::CsrView;
using sparsekit::Product;
constexpr int kMostVectors = 4;  // vectors of tokens in a full panel

int panel_tokens(int64_t tokens) {
  const int64_t vectors = (tokens + kWidth - 1) / kWidth;
  return static_cast<int>(vectors > kMostVectors ? kMostVectors : vectors) * kWidth;
}

void pack(const Product& product, int64_t columns, int64_t first, int64_t tokens, float* panel) {
  pack_panel(product, columns, first, tokens, panel_tokens(tokens), panel);
}

// One row's entries of one tile against a panel of kVectors * kWidth tokens; `sum` is read and written.
template <int kVectors>
SPARSEKIT_INLINE void accumulate(const float* values, const uint16_t* indices, int count, const float* panel,
                                 float* sum) {
  constexpr int kTokens = kVectors * kWidth;
  // A narrow panel needs several sets of sums to hide the latency of the multiply-add; a full one fills it alone.
  constexpr int kChains = kVectors >= 3 ? 1 : 4 / kVectors;
  Vec chain[kChains][kVectors];
  SPARSEKIT_UNROLL
  for (int j = 0; j < kVectors; ++j) chain[0][j] = Simd::load(sum + j * kWidth);
  SPARSEKIT_UNROLL
  for (int c = 1; c < kChains; ++c) {
    SPARSEKIT_UNROLL
    for (int j = 0; j < kVectors; ++j) chain[c][j] = Simd::zero();
  }
  int p = 0;
  for (; p + kChains <= count; p += kChains) {
    SPARSEKIT_UNROLL
    for (int c = 0; c < kChains; ++c) {
      const float* x = panel + static_cast<int64_t>(indices[p + c]) * kTokens;
      const Vec weight = Simd::set1(values[p + c]);
      SPARSEKIT_UNROLL
      for (int j = 0; j < kVectors; ++j) chain[c][j] = Simd::fma(weight, Simd::load(x + j * kWidth), chain[c][j]);
    }
  }
  for (; p < count; ++p) {
    const float* x = panel + static_cast<int64_t>(indices[p]) * kTokens;
    const Vec weight = Simd::set1(values[p]);
    SPARSEKIT_UNROLL
    for (int j = 0; j < kVectors; ++j) chain[0][j] = Simd::fma(weight, Simd::load(x + j * kWidth), chain[0][j]);
  }
  SPARSEKIT_UNROLL
  for (int j = 0; j < kVectors; ++j) {
    Vec total = chain[0][j];
    SPARSEKIT_UNROLL
    for (int c = 1; c < kChains; ++c) total = Simd::add(total, chain[c][j]);
    Simd::store(sum + j * kWidth, total);
  }
}

template <int kVectors>
void accumulate_chunk(const CsrChunk& w, const Product& product, const float* panel, float* sums) {
  constexpr int kTokens = kVectors * kWidth;
  for (int64_t r = 0; r < w.rows; ++r) {
    const Vec start = Simd::set1(product.bias == nullptr ? 0.0f : product.bias[w.first_row + r]);
    SPARSEKIT_UNROLL
    for (int j = 0; j < kVectors; ++j) Simd::store(sums + r * kTokens + j * kWidth, start);
  }
  const float* values = w.values;
  const uint16_t* indices = w.indices;
  const uint16_t* counts = w.counts;
  for (int64_t t = 0; t < w.tiles; ++t) {
    const float* part = panel + t * w.tile_columns * kTokens;
    for (int64_t r = 0; r < w.rows; ++r) {
      const int count = *counts++;
      accumulate<kVectors>(values, indices, count, part, sums + r * kTokens);
      values += count;
      indices += count;
    }
  }
}

// Writes the transposed sums[r][m] to y[first + m][first_row + r].
void store_sums(const CsrChunk& w, const Product& product, int64_t rows, const float* sums, int64_t width,
                int64_t first, int64_t tokens) {
  for (int64_t m = 0; m < tokens; m += kWidth) {
    const int high = static_cast<int>(tokens - m < kWidth ? tokens - m : kWidth);
    for (int64_t r = 0; r < w.rows; r += kWidth) {
      const float* from = sums + r * width + m;
      float* to = product.y + (first + m) * rows + w.first_row + r;
      const int wide = static_cast<int>(w.rows - r < kWidth ? w.rows - r : kWidth);
      if (high == kWidth && wide == kWidth) {
        Simd::transpose(from, width, to, rows);
        continue;
      }
      alignas(64) float out[kWidth * kWidth];
      Simd::transpose(from, width, out, kWidth);
      for (int i = 0; i < high; ++i) Simd::store_first(to + i * rows, Simd::load(out + i * kWidth), wide);
    }
  }
}

void multiply_chunk(const CsrChunk& w, const Product& product, int64_t rows, const float* panel, int64_t first,
                    int64_t tokens, float* sums) {
  const int width = panel_tokens(tokens);
  switch (width / kWidth) {
    case 1: accumulate_chunk<1>(w, product, panel, sums); break;
    case 2: accumulate_chunk<2>(w, product, panel, sums); break;
    case 3: accumulate_chunk<3>(w, product, panel, sums); break;
    default: accumulate_chunk<kMostVectors>(w, product, panel, sums); break;
  }
  store_sums(w, product, rows, sums, width, first, tokens);
}

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

constexpr sparsekit::CsrKernels kCsrKernels = {kMostVectors * kWidth, multiply_rows, panel_tokens, pack,
                                               multiply_chunk};

}  // namespace
