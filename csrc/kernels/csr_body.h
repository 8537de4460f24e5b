// The CSR kernels, written once over `Simd`; each translation unit includes one instruction set before this file.
#pragma once

#include "kernels/csr.h"
#include "kernels/panel.h"

namespace {

using sparsekit::CsrView;
using sparsekit::kChunkRows;
using sparsekit::Product;
constexpr int kMostVectors = 4;  // vectors of tokens in a full panel

int panel_tokens(int64_t tokens) {
  const int64_t vectors = (tokens + kWidth - 1) / kWidth;
  return static_cast<int>(vectors > kMostVectors ? kMostVectors : vectors) * kWidth;
}

void pack(const Product& product, int64_t columns, int64_t first, int64_t tokens, float* panel) {
  pack_panel(product, columns, first, tokens, panel_tokens(tokens), panel);
}

// One row's entries of one column tile against a panel of kVectors * kWidth tokens; `sum` is read and written.
template <int kVectors, class Index>
void accumulate(const float* values, const Index* indices, int64_t count, const float* panel, float* sum) {
  constexpr int kTokens = kVectors * kWidth;
  // Two sets of sums where they hide the latency of the multiply-add; a full panel of vectors fills one set each.
  Vec even[kVectors], odd[kVectors];
  for (int j = 0; j < kVectors; ++j) {
    even[j] = Simd::load(sum + j * kWidth);
    odd[j] = Simd::zero();
  }
  int64_t p = 0;
  for (; p + 2 <= count; p += 2) {
    const float* x0 = panel + static_cast<int64_t>(indices[p]) * kTokens;
    const float* x1 = panel + static_cast<int64_t>(indices[p + 1]) * kTokens;
    const Vec w0 = Simd::set1(values[p]);
    const Vec w1 = Simd::set1(values[p + 1]);
    for (int j = 0; j < kVectors; ++j) even[j] = Simd::fma(w0, Simd::load(x0 + j * kWidth), even[j]);
    for (int j = 0; j < kVectors; ++j) odd[j] = Simd::fma(w1, Simd::load(x1 + j * kWidth), odd[j]);
  }
  if (p < count) {
    const float* x0 = panel + static_cast<int64_t>(indices[p]) * kTokens;
    const Vec w0 = Simd::set1(values[p]);
    for (int j = 0; j < kVectors; ++j) even[j] = Simd::fma(w0, Simd::load(x0 + j * kWidth), even[j]);
  }
  for (int j = 0; j < kVectors; ++j) Simd::store(sum + j * kWidth, Simd::add(even[j], odd[j]));
}

// Writes the transposed sums tile[n - begin][m] to y[first + m][n].
void store_tile(const Product& product, int64_t rows, const float* tile, int64_t width, int64_t first, int64_t tokens,
                int64_t begin, int64_t end) {
  for (int64_t m = 0; m < tokens; m += kWidth) {
    const int high = static_cast<int>(tokens - m < kWidth ? tokens - m : kWidth);
    for (int64_t n = begin; n < end; n += kWidth) {
      const float* from = tile + (n - begin) * width + m;
      float* to = product.y + (first + m) * rows + n;
      const int wide = static_cast<int>(end - n < kWidth ? end - n : kWidth);
      if (high == kWidth && wide == kWidth) {
        Simd::transpose(from, width, to, rows);
        continue;
      }
      alignas(64) float out[kWidth * kWidth];
      Simd::transpose(from, width, out, kWidth);  // the tile has kWidth spare rows
      for (int i = 0; i < high; ++i) Simd::store_first(to + i * rows, Simd::load(out + i * kWidth), wide);
    }
  }
}

template <int kVectors, class Index>
void multiply_chunk(const CsrView& w, const Product& product, const float* panel, int64_t begin, int64_t end,
                    float* tile) {
  constexpr int kTokens = kVectors * kWidth;
  constexpr int64_t kAhead = 6;  // rows between the prefetch of a tile's entries and their use
  const Index* indices = static_cast<const Index*>(w.indices);
  for (int64_t n = begin; n < end; ++n) {
    const Vec start = Simd::set1(product.bias == nullptr ? 0.0f : product.bias[n]);
    for (int j = 0; j < kVectors; ++j) Simd::store(tile + (n - begin) * kTokens + j * kWidth, start);
  }
  for (int64_t t = 0; t < w.tiles; ++t) {
    for (int64_t n = begin; n < end; ++n) {
      const uint32_t* cut = w.cuts + n * (w.tiles + 1) + t;
      if (n + kAhead < end) {
        const int64_t next = w.offsets[n + kAhead] + cut[kAhead * (w.tiles + 1)];
        Simd::prefetch(w.values + next);
        Simd::prefetch(w.values + next + 16);
        Simd::prefetch(indices + next);
      }
      const int64_t p = w.offsets[n] + cut[0];
      accumulate<kVectors>(w.values + p, indices + p, cut[1] - cut[0], panel, tile + (n - begin) * kTokens);
    }
  }
}

template <int kVectors>
void multiply_chunk_of(const CsrView& w, const Product& product, const float* panel, int64_t begin, int64_t end,
                       float* tile) {
  if (w.wide_indices)
    multiply_chunk<kVectors, int32_t>(w, product, panel, begin, end, tile);
  else
    multiply_chunk<kVectors, uint16_t>(w, product, panel, begin, end, tile);
}

void multiply_panel(const CsrView& w, const Product& product, const float* panel, int64_t first, int64_t tokens,
                    int64_t begin, int64_t end, float* tile) {
  const int width = panel_tokens(tokens);
  for (int64_t from = begin; from < end; from += kChunkRows) {
    const int64_t to = from + kChunkRows < end ? from + kChunkRows : end;
    switch (width / kWidth) {
      case 1: multiply_chunk_of<1>(w, product, panel, from, to, tile); break;
      case 2: multiply_chunk_of<2>(w, product, panel, from, to, tile); break;
      case 3: multiply_chunk_of<3>(w, product, panel, from, to, tile); break;
      default: multiply_chunk_of<kMostVectors>(w, product, panel, from, to, tile); break;
    }
    store_tile(product, w.rows, tile, width, first, tokens, from, to);
  }
}

// Eight partial sums of one dot product; what the vector units gather is left to each instruction set.
template <class Index>
float dot(const float* values, const Index* indices, int64_t count, const float* x) {
#if defined(__SSE4_1__)
  // Inserts beat the gather instruction on the processors measured, and no microcode patch slows them down.
  const auto four = [x](const Index* i) {
    const __m128 low = _mm_insert_ps(_mm_load_ss(x + i[0]), _mm_load_ss(x + i[1]), 0x10);
    const __m128 high = _mm_insert_ps(_mm_load_ss(x + i[2]), _mm_load_ss(x + i[3]), 0x10);
    return _mm_movelh_ps(low, high);
  };
  __m128 a = _mm_setzero_ps(), b = a, c = a, d = a;
  int64_t p = 0;
  for (; p + 16 <= count; p += 16) {
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
  for (; p + 4 <= count; p += 4)
    for (int j = 0; j < 4; ++j) part[j] += values[p + j] * x[indices[p + j]];
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

constexpr sparsekit::CsrKernels kCsrKernels = {kMostVectors * kWidth, pack, panel_tokens, multiply_panel,
                                               multiply_rows};

}  // namespace
