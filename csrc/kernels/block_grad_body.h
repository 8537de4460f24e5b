// The gradients of the block CSR product, written once over `Simd`. For the values, vectors run along a block's outputs
// and activations are broadcast; for the inputs, vectors run along tokens and values are broadcast.
#pragma once

#include "kernels/block_grad.h"
#include "kernels/panel.h"
#include "simd/unroll.h"

namespace {

using sparsekit::SampledRow;
using sparsekit::SpreadRow;

// The values of kSlots inputs and kVectors * kWidth outputs from `lane` on, kept in registers over all tokens.
template <int kVectors, int kSlots>
void sample_tile(const SampledRow& row, int64_t slot, int64_t lane) {
  constexpr int kTogether = kWidth / 2 / kVectors;  // tokens between two looks at the offsets
  Vec sum[kSlots][kVectors];
  SPARSEKIT_UNROLL
  for (int s = 0; s < kSlots; ++s) {
    SPARSEKIT_UNROLL
    for (int v = 0; v < kVectors; ++v) sum[s][v] = Simd::zero();
  }
  const float* grad = row.grad + lane;
  const int64_t* offsets = row.offsets + slot;
  for (int64_t m = 0; m < row.tokens; m += kTogether) {
    Vec g[kTogether][kVectors];
    SPARSEKIT_UNROLL
    for (int t = 0; t < kTogether; ++t) {
      SPARSEKIT_UNROLL
      for (int v = 0; v < kVectors; ++v) g[t][v] = Simd::loadu(grad + (m + t) * row.lanes + v * kWidth);
    }
    SPARSEKIT_UNROLL
    for (int s = 0; s < kSlots; ++s) {
      const float* x = row.x + offsets[s] + m;
      SPARSEKIT_UNROLL
      for (int t = 0; t < kTogether; ++t) {
        const Vec activation = Simd::set1(x[t]);
        SPARSEKIT_UNROLL
        for (int v = 0; v < kVectors; ++v) sum[s][v] = Simd::fma(g[t][v], activation, sum[s][v]);
      }
    }
  }
  const int64_t left = row.lanes - lane - (kVectors - 1) * kWidth;
  const int last = static_cast<int>(left < kWidth ? left : kWidth);
  SPARSEKIT_UNROLL
  for (int s = 0; s < kSlots; ++s) {
    SPARSEKIT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      float* to = row.values + (slot + s) * row.lanes + lane + v * kWidth;
      const int lanes = v + 1 == kVectors ? last : kWidth;
      Simd::store_first(to, row.add ? Simd::add(Simd::load_first(to, lanes), sum[s][v]) : sum[s][v], lanes);
    }
  }
}

// All inputs for the outputs from `lane` on: tiles as wide as the registers allow, then narrower ones.
template <int kVectors>
void sample_lanes(const SampledRow& row, int64_t lane) {
  constexpr int kSums = kWidth == 16 ? 16 : 8;
  constexpr int kWide = kSums / kVectors;
  int64_t slot = 0;
  for (; slot + kWide <= row.slots; slot += kWide) sample_tile<kVectors, kWide>(row, slot, lane);
  if constexpr (kWide > 8)
    for (; slot + 8 <= row.slots; slot += 8) sample_tile<kVectors, 8>(row, slot, lane);
  if constexpr (kWide > 4)
    for (; slot + 4 <= row.slots; slot += 4) sample_tile<kVectors, 4>(row, slot, lane);
  for (; slot + 2 <= row.slots; slot += 2) sample_tile<kVectors, 2>(row, slot, lane);
  if (slot < row.slots) sample_tile<kVectors, 1>(row, slot, lane);
}

void sample(const SampledRow& row) {
  int64_t lane = 0;
  for (; row.lanes - lane > kWidth; lane += 2 * kWidth) sample_lanes<2>(row, lane);
  if (lane < row.lanes) sample_lanes<1>(row, lane);
}

void turn(const float* x, int64_t x_stride, int64_t columns, int64_t tokens, int64_t width, float* to) {
  pack_panel({x, tokens, x_stride, nullptr, nullptr}, columns, 0, tokens, width, to);
}

// The products of kSlots inputs with kRows outputs, whose gradients `g` are in registers.
template <int kRows, int kSlots>
SPARSEKIT_INLINE void spread_slots(const Vec* g, const float* values, int64_t lanes, const int64_t* offsets, float* x) {
  Vec sum[kSlots];
  SPARSEKIT_UNROLL
  for (int s = 0; s < kSlots; ++s) sum[s] = Simd::load(x + offsets[s]);
  SPARSEKIT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    SPARSEKIT_UNROLL
    for (int s = 0; s < kSlots; ++s) sum[s] = Simd::fma(g[r], Simd::set1(values[s * lanes + r]), sum[s]);
  }
  SPARSEKIT_UNROLL
  for (int s = 0; s < kSlots; ++s) Simd::store(x + offsets[s], sum[s]);
}

// The products of all inputs with kRows outputs from `lane` on.
template <int kRows>
void spread_rows(const SpreadRow& row, int64_t lane) {
  constexpr int kTogether = kWidth == 16 ? 8 : 4;
  Vec g[kRows];
  SPARSEKIT_UNROLL
  for (int r = 0; r < kRows; ++r) g[r] = Simd::load(row.grad + (lane + r) * kWidth);
  const float* values = row.values + lane;
  int64_t s = 0;
  for (; s + kTogether <= row.slots; s += kTogether)
    spread_slots<kRows, kTogether>(g, values + s * row.lanes, row.lanes, row.offsets + s, row.x);
  for (; s < row.slots; ++s) spread_slots<kRows, 1>(g, values + s * row.lanes, row.lanes, row.offsets + s, row.x);
}

void spread(const SpreadRow& row) {
  int64_t lane = 0;
  if constexpr (kWidth == 16)
    for (; lane + 16 <= row.inside; lane += 16) spread_rows<16>(row, lane);
  for (; lane + 8 <= row.inside; lane += 8) spread_rows<8>(row, lane);
  for (; lane + 4 <= row.inside; lane += 4) spread_rows<4>(row, lane);
  for (; lane + 2 <= row.inside; lane += 2) spread_rows<2>(row, lane);
  if (lane < row.inside) spread_rows<1>(row, lane);
}

// to[t * columns + k] = from[k * kWidth + t] for t < tokens.
void turn_back(const float* from, int64_t columns, int64_t tokens, float* to) {
  int64_t k = 0;
  if (tokens == kWidth)
    for (; k + kWidth <= columns; k += kWidth) Simd::transpose(from + k * kWidth, kWidth, to + k, columns);
  for (; k < columns; ++k)
    for (int64_t t = 0; t < tokens; ++t) to[t * columns + k] = from[k * kWidth + t];
}

constexpr sparsekit::BlockGradKernels kBlockGradKernels = {kWidth, turn, turn_back, spread, sample};

}  // namespace
