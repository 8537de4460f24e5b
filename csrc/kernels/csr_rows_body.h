// Dot products of sparse rows, written once; each translation unit includes one instruction set before this file.
#pragma once

#include <algorithm>
#include <cstring>

#include "kernels/csr_rows.h"
#include "simd/unroll.h"

namespace {

using sparsekit::CsrView;
using sparsekit::kLockstepRows;
using sparsekit::kLockstepTokens;
using sparsekit::kWindowEntries;
using sparsekit::kWindowRows;
using sparsekit::kWindowSteps;
using sparsekit::LockstepEntries;
using sparsekit::LockstepView;
using sparsekit::Product;
using sparsekit::WindowView;

// Four floats: the unit in which activations are gathered.
#if defined(__AVX2__)
using Four = __m128;
SPARSEKIT_INLINE Four zeros() { return _mm_setzero_ps(); }
SPARSEKIT_INLINE Four sum(Four a, Four b) { return _mm_add_ps(a, b); }
SPARSEKIT_INLINE void store(float* p, Four v) { _mm_storeu_ps(p, v); }
SPARSEKIT_INLINE float total(Four v) {
  v = _mm_add_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)));
}
// Inserts beat the gather instruction on the processors measured, and no microcode patch slows them down.
SPARSEKIT_INLINE Four pick(const float* x, int64_t a, int64_t b, int64_t c, int64_t d) {
  const __m128 low = _mm_insert_ps(_mm_load_ss(x + a), _mm_load_ss(x + b), 0x10);
  const __m128 high = _mm_insert_ps(_mm_load_ss(x + c), _mm_load_ss(x + d), 0x10);
  return _mm_movelh_ps(low, high);
}
SPARSEKIT_INLINE Four multiply_add(const float* values, Four x, Four acc) {
  return _mm_fmadd_ps(_mm_loadu_ps(values), x, acc);
}
SPARSEKIT_INLINE Four multiply_add(float value, const float* x, Four acc) {
  return _mm_fmadd_ps(_mm_set1_ps(value), _mm_loadu_ps(x), acc);
}
#else
using Four = Simd::Vec;
SPARSEKIT_INLINE Four zeros() { return Simd::zero(); }
SPARSEKIT_INLINE Four sum(Four a, Four b) { return Simd::add(a, b); }
SPARSEKIT_INLINE void store(float* p, Four v) { Simd::storeu(p, v); }
SPARSEKIT_INLINE float total(Four v) { return Simd::sum(v); }
SPARSEKIT_INLINE Four pick(const float* x, int64_t a, int64_t b, int64_t c, int64_t d) {
  return Four{x[a], x[b], x[c], x[d]};
}
SPARSEKIT_INLINE Four multiply_add(const float* values, Four x, Four acc) {
  return Simd::fma(Simd::loadu(values), x, acc);
}
SPARSEKIT_INLINE Four multiply_add(float value, const float* x, Four acc) {
  return Simd::fma(Simd::set1(value), Simd::loadu(x), acc);
}
#endif

// Four indices from one load: they cost as many loads as the activations otherwise, and loads are what there is most
// of.
SPARSEKIT_INLINE Four gather(const float* x, const uint16_t* indices) {
  uint64_t four;
  std::memcpy(&four, indices, sizeof four);
  const auto at = [four](int i) { return static_cast<int64_t>(static_cast<uint16_t>(four >> (16 * i))); };
  return pick(x, at(0), at(1), at(2), at(3));
}

SPARSEKIT_INLINE Four gather(const float* x, const int32_t* indices) {
  return pick(x, indices[0], indices[1], indices[2], indices[3]);
}

template <class Index>
float dot(const float* values, const Index* indices, int64_t count, const float* x) {
  Four part[4] = {zeros(), zeros(), zeros(), zeros()};
  int64_t p = 0;
  for (; p + 16 <= count; p += 16) {
    SPARSEKIT_UNROLL
    for (int j = 0; j < 4; ++j) part[j] = multiply_add(values + p + 4 * j, gather(x, indices + p + 4 * j), part[j]);
  }
  for (; p + 4 <= count; p += 4) part[0] = multiply_add(values + p, gather(x, indices + p), part[0]);
  float result = total(sum(sum(part[0], part[1]), sum(part[2], part[3])));
  for (; p < count; ++p) result += values[p] * x[indices[p]];
  return result;
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

// Fetches the step that comes in 16 KB to the second-level cache: the first belongs to the activations. From memory
// this takes 4096 columns at 90 % of zeros from 148 to 98 us; farther ahead gains nothing.
SPARSEKIT_INLINE void fetch(const LockstepEntries* step) {
  constexpr int kAhead = 16384, kSecondLevel = 2;
  const char* ahead = reinterpret_cast<const char*>(step) + kAhead;
  __builtin_prefetch(ahead, 0, kSecondLevel);
  __builtin_prefetch(ahead + 64, 0, kSecondLevel);
}

// The sums of one group's rows for one token.
SPARSEKIT_INLINE void sum_group(const LockstepEntries* step, const LockstepEntries* end, const float* x, float* sums) {
  Four part[kLockstepRows / 4];
  SPARSEKIT_UNROLL
  for (Four& p : part) p = zeros();
  for (; step != end; ++step) {
    fetch(step);
    SPARSEKIT_UNROLL
    for (int j = 0; j < kLockstepRows / 4; ++j)
      part[j] = multiply_add(step->values + 4 * j, gather(x, step->columns + 4 * j), part[j]);
  }
  SPARSEKIT_UNROLL
  for (int j = 0; j < kLockstepRows / 4; ++j) store(sums + 4 * j, part[j]);
}

// The sums of one group's rows for four tokens, whose activations of a column lie side by side: one load serves all
// four. Eight rows at a time, as many as sixteen registers hold the sums of.
SPARSEKIT_INLINE void sum_group_of_four(const LockstepEntries* step, const LockstepEntries* end, const float* x,
                                        float* sums) {
  constexpr int kRows = 8;
  for (int first = 0; first < kLockstepRows; first += kRows) {
    Four part[kRows];
    SPARSEKIT_UNROLL
    for (Four& p : part) p = zeros();
    for (const LockstepEntries* at = step; at != end; ++at) {
      if (first == 0) fetch(at);
      SPARSEKIT_UNROLL
      for (int r = 0; r < kRows; ++r)
        part[r] = multiply_add(at->values[first + r], x + kLockstepTokens * int64_t{at->columns[first + r]}, part[r]);
    }
    SPARSEKIT_UNROLL
    for (int r = 0; r < kRows; ++r) store(sums + kLockstepTokens * (first + r), part[r]);
  }
}

// sums[r * stride] of the rows r of group n becomes one token's y.
template <class View>
SPARSEKIT_INLINE void write_group(const View& w, const Product& product, int64_t n, int64_t token, const float* sums,
                                  int stride) {
  for (int r = 0; r < kLockstepRows; ++r) {
    const int64_t row = w.order[n * kLockstepRows + r];
    if (row >= 0)
      product.y[token * w.rows + row] = sums[r * stride] + (product.bias == nullptr ? 0.0f : product.bias[row]);
  }
}

void multiply_groups(const LockstepView& w, const Product& product, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n)
    for (int64_t m = 0; m < product.batch; ++m) {
      float sums[kLockstepRows];
      sum_group(w.steps + w.offsets[n], w.steps + w.offsets[n + 1], product.x + m * product.x_stride, sums);
      write_group(w, product, n, m, sums, 1);
    }
}

void multiply_groups_by_fours(const LockstepView& w, const Product& product, const float* x, int64_t begin,
                              int64_t end) {
  for (int64_t n = begin; n < end; ++n)
    for (int64_t first = 0; first < product.batch; first += kLockstepTokens) {
      float sums[kLockstepRows * kLockstepTokens];
      sum_group_of_four(w.steps + w.offsets[n], w.steps + w.offsets[n + 1], x + first * w.columns, sums);
      for (int64_t m = first; m < std::min(first + kLockstepTokens, product.batch); ++m)
        write_group(w, product, n, m, sums + (m - first), kLockstepTokens);
    }
}

#if defined(__AVX512F__)
// The activations that a window shows.
struct Window {
  __m512 part[4];

  explicit Window(const float* x) {
    SPARSEKIT_UNROLL
    for (int i = 0; i < 4; ++i) part[i] = _mm512_loadu_ps(x + 16 * i);
  }
  // One of each lane; `upper` are the lanes whose column is in the upper half.
  __m512 pick(__m512i place, __mmask16 upper) const {
    return _mm512_mask_blend_ps(upper, _mm512_permutex2var_ps(part[0], place, part[1]),
                                _mm512_permutex2var_ps(part[2], place, part[3]));
  }
};

// y of a group's rows for all kTokens tokens.
template <int kTokens>
void sum_windows(const WindowView& w, const Product& product, int64_t n) {
  // 16 KB of values, and the places that belong to them.
  constexpr int64_t kAhead = 128, kSecondLevel = 2;
  const float* x[kTokens];
  __m512 sums[kTokens][kWindowSteps];
  SPARSEKIT_UNROLL
  for (int m = 0; m < kTokens; ++m) {
    x[m] = product.x + m * product.x_stride;
    SPARSEKIT_UNROLL
    for (__m512& sum : sums[m]) sum = _mm512_setzero_ps();
  }
  for (int64_t s = w.offsets[n]; s < w.offsets[n + 1]; ++s) {
    const float* values = w.values + s * kWindowEntries;
    const uint8_t* places = w.places + s * kWindowEntries;
    __builtin_prefetch(values + kAhead * kWindowEntries, 0, kSecondLevel);
    __builtin_prefetch(values + kAhead * kWindowEntries + 16, 0, kSecondLevel);
    __builtin_prefetch(places + kAhead * kWindowEntries, 0, kSecondLevel);
    __m512i place[kWindowSteps];
    SPARSEKIT_UNROLL
    for (int i = 0; i < kWindowSteps; ++i)
      place[i] = _mm512_cvtepi8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(places + i * kWindowRows)));
    SPARSEKIT_UNROLL
    for (int m = 0; m < kTokens; ++m) {
      const Window window(x[m] + w.columns[s]);
      SPARSEKIT_UNROLL
      for (int i = 0; i < kWindowSteps; ++i)
        sums[m][i] = _mm512_fmadd_ps(_mm512_load_ps(values + i * kWindowRows),
                                     window.pick(place[i], _mm512_movepi32_mask(place[i])), sums[m][i]);
    }
  }
  SPARSEKIT_UNROLL
  for (int m = 0; m < kTokens; ++m) {
    alignas(64) float total[kWindowRows];
    _mm512_store_ps(total, _mm512_add_ps(sums[m][0], sums[m][1]));
    write_group(w, product, n, m, total, 1);
  }
}

void multiply_windows(const WindowView& w, const Product& product, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n)
    if (product.batch == 2)
      sum_windows<2>(w, product, n);
    else if (product.batch == 1)
      sum_windows<1>(w, product, n);
}
#else
constexpr auto multiply_windows = nullptr;
#endif

constexpr sparsekit::CsrRowsKernels kCsrRowsKernels = {multiply_rows, multiply_groups, multiply_groups_by_fours,
                                                       multiply_windows};

}  // namespace
