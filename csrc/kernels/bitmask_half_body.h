// The bitmask kernel in bfloat16, written once over `Simd` and `Expand`; included after one instruction set and its
// Expand:
//   Expand::order says how bits and values are laid out,
//   Expand::next(word, values, weights) decodes the weights of a word: of each output a pair of inputs.
#pragma once

#include "kernels/bitmask_half.h"
#include "simd/constant.h"
#include "simd/unroll.h"

namespace {

using sparsekit::BitmaskHalfView;
using sparsekit::kHalfStrip;

using Vec = Simd::Vec;
constexpr int kWidth = Simd::kWidth;
constexpr int kVectors = kHalfStrip / kWidth;
// Sums of one output vector that the registers hold beside what decoding takes.
constexpr int kTokens = 16 / kVectors;

// How far ahead of its use memory is asked for: decoding reads it too slowly for the hardware to run far enough ahead.
constexpr int kValuesAhead = 1024, kBitsAhead = 256;

// The sums of one strip, for a whole panel. Few tokens take several sums of each, to hide the latency of the
// multiply-add.
template <int kPanel>
__attribute__((noinline)) void multiply_strip(const uint32_t* bits, const uint16_t* values, int64_t words,
                                              const float* panel, float* sums, int64_t stride) {
  constexpr int kChains = kPanel * kVectors >= 8 ? 1 : kPanel * kVectors >= 3 ? 2 : 4;
  Vec sum[kChains][kPanel][kVectors];
  SPARSEKIT_UNROLL
  for (auto& chain : sum) {
    SPARSEKIT_UNROLL
    for (auto& token : chain) {
      SPARSEKIT_UNROLL
      for (Vec& part : token) part = Simd::zero();
    }
  }
  const auto add_word = [&](int64_t at, Vec(&to)[kPanel][kVectors]) {
    Vec weights[kVectors];
    Simd::prefetch(values + kValuesAhead);
    values = Expand::next(bits[at], values, weights);
    SPARSEKIT_UNROLL
    for (int t = 0; t < kPanel; ++t) {
      SPARSEKIT_UNROLL
      for (int v = 0; v < kVectors; ++v) to[t][v] = Simd::mac_pair(weights[v], panel + at * kPanel + t, to[t][v]);
    }
  };
  int64_t at = 0;
  for (; at + kChains <= words; at += kChains) {
    if (at % 16 == 0) Simd::prefetch(bits + at + kBitsAhead);  // one line
    SPARSEKIT_UNROLL
    for (int c = 0; c < kChains; ++c) add_word(at + c, sum[c]);
  }
  for (; at < words; ++at) add_word(at, sum[0]);
  SPARSEKIT_UNROLL
  for (int t = 0; t < kPanel; ++t) {
    SPARSEKIT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      Vec total = sum[0][t][v];
      SPARSEKIT_UNROLL
      for (int c = 1; c < kChains; ++c) total = Simd::add(total, sum[c][t][v]);
      Simd::storeu(sums + t * stride + v * kWidth, total);
    }
  }
}

void multiply(const BitmaskHalfView& w, const float* panel, int64_t tokens, int64_t begin, int64_t end, float* sums,
              int64_t stride) {
  with_constant<kTokens>(static_cast<int>(tokens), [&](auto count) {
    for (int64_t n = begin; n < end; ++n)
      multiply_strip<count>(w.bits + n * w.words, w.values + w.offsets[n], w.words, panel,
                            sums + (n - begin) * kHalfStrip, stride);
  });
}

constexpr sparsekit::BitmaskHalfKernels kBitmaskHalfKernels = {kTokens, Expand::order, multiply};

}  // namespace
