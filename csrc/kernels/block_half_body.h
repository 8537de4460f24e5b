// The kernel for blocks in bfloat16, written once over `Simd`: vectors run along a block's outputs, pairs of inputs are
// broadcast.
#pragma once

#include <cstring>

#include "kernels/block_half.h"
#include "simd/constant.h"
#include "simd/unroll.h"

namespace {

using sparsekit::BlockHalfView;
using sparsekit::HalfProduct;

using Vec = Simd::Vec;
constexpr int kWidth = Simd::kWidth;
// Two vectors of outputs share each broadcast; the sums leave registers for them, the weights and one broadcast.
constexpr int kStripVectors = 2;
constexpr int kSums = kWidth == 16 ? 24 : 12;

// The words of one block row for one strip of outputs.
struct Strip {
  const float* weights;
  const uint16_t* words;
  int64_t count;
};

// Adds what one word contributes to the sums of kTokens tokens, for kVectors vectors of outputs.
template <int kVectors, int kTokens>
SPARSEKIT_INLINE void add_word(const Strip& strip, int64_t at, const float* panel, Vec (&sum)[kTokens][kVectors]) {
  const float* weights = strip.weights + at * (kVectors * kWidth);
  const float* x = panel + static_cast<int64_t>(strip.words[at]) * kTokens;
  Vec weight[kVectors];
  SPARSEKIT_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    weight[v] = Simd::load(weights + v * kWidth);
    Simd::hold(weight[v]);
  }
  SPARSEKIT_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    SPARSEKIT_UNROLL
    for (int v = 0; v < kVectors; ++v) sum[t][v] = Simd::mac_pair(weight[v], x + t, sum[t][v]);
  }
}

// Sums of kTokens tokens, a whole panel. Few tokens take several sums of each, to hide the latency of the multiply-add.
template <int kVectors, int kTokens>
__attribute__((noinline)) void multiply_strip(const Strip& strip, const float* panel, float* sums, int64_t stride) {
  constexpr int kChains = kTokens * kVectors >= 8 ? 1 : kTokens * kVectors >= 4 ? 2 : 4;
  Vec sum[kChains][kTokens][kVectors];
  SPARSEKIT_UNROLL
  for (int c = 0; c < kChains; ++c) {
    SPARSEKIT_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      SPARSEKIT_UNROLL
      for (int v = 0; v < kVectors; ++v) sum[c][t][v] = Simd::zero();
    }
  }
  int64_t at = 0;
  for (; at + kChains <= strip.count; at += kChains) {
    SPARSEKIT_UNROLL
    for (int c = 0; c < kChains; ++c) add_word<kVectors, kTokens>(strip, at + c, panel, sum[c]);
  }
  if constexpr (kChains > 1)
    for (; at < strip.count; ++at) add_word<kVectors, kTokens>(strip, at, panel, sum[0]);
  SPARSEKIT_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    SPARSEKIT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      Vec total = sum[0][t][v];
      SPARSEKIT_UNROLL
      for (int c = 1; c < kChains; ++c) total = Simd::add(total, sum[c][t][v]);
      Simd::storeu(sums + t * stride + v * kWidth, total);
    }
  }
}

template <int kVectors>
void multiply_tokens(const Strip& strip, const float* panel, int64_t tokens, float* sums, int64_t stride) {
  with_constant<kSums / kVectors>(static_cast<int>(tokens),
                                  [&](auto count) { multiply_strip<kVectors, count>(strip, panel, sums, stride); });
}

// Outputs that share each line of tokens.
constexpr int kLast = 4;

// The last outputs of the matrix where they would fill less than half a vector: vectors run along the tokens instead.
// `wide` lanes of the strip lie side by side.
void multiply_last(const Strip& strip, int64_t wide, int64_t outputs, const float* panel, int64_t tokens, float* sums,
                   int64_t stride) {
  for (int64_t first = 0; first < outputs; first += kLast)
    for (int64_t m = 0; m < tokens; m += kWidth) {
      int64_t at[kLast];
      Vec sum[kLast], other[kLast];  // of every second word, to hide the latency of the multiply-add
      for (int r = 0; r < kLast; ++r) {
        at[r] = first + r < outputs ? first + r : first;  // beyond them, one is computed again
        sum[r] = other[r] = Simd::zero();
      }
      const auto add = [&](int64_t p, Vec* to) {
        const Vec line = Simd::loadu(panel + static_cast<int64_t>(strip.words[p]) * tokens + m);
        SPARSEKIT_UNROLL
        for (int r = 0; r < kLast; ++r) to[r] = Simd::mac_pair(line, strip.weights + p * wide + at[r], to[r]);
      };
      int64_t p = 0;
      for (; p + 2 <= strip.count; p += 2) {
        add(p, sum);
        add(p + 1, other);
      }
      if (p < strip.count) add(p, sum);
      for (int r = 0; r < kLast; ++r) sum[r] = Simd::add(sum[r], other[r]);
      alignas(64) float of_tokens[kWidth];
      for (int r = 0; r < kLast && first + r < outputs; ++r) {
        Simd::store(of_tokens, sum[r]);
        for (int64_t t = 0; t < kWidth && m + t < tokens; ++t) sums[(m + t) * stride + first + r] = of_tokens[t];
      }
    }
}

void multiply(const BlockHalfView& w, const float* panel, int64_t tokens, int64_t begin, int64_t end, float* sums,
              int64_t stride) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t from = w.offsets[row], count = w.offsets[row + 1] - from;
    float* at = sums + (row - begin) * w.block_rows;
    const int64_t outputs = w.rows - row * w.block_rows;
    if (outputs < w.block_rows && 2 * outputs < kWidth) {
      const int64_t wide = w.lanes < kStripVectors * kWidth ? w.lanes : kStripVectors * kWidth;
      multiply_last({w.weights + from * w.lanes, w.words + from, count}, wide, outputs, panel, tokens, at, stride);
      continue;
    }
    for (int64_t lane = 0; lane < w.lanes;) {
      const Strip strip = {w.weights + from * w.lanes + lane * count, w.words + from, count};
      if (w.lanes == kWidth)
        multiply_tokens<1>(strip, panel, tokens, at, stride);
      else if (w.lanes - lane >= kStripVectors * kWidth)
        multiply_tokens<kStripVectors>(strip, panel, tokens, at + lane, stride);
      else
        with_constant<kSums / kStripVectors>(
            static_cast<int>(tokens), [&](auto count) { multiply_strip<1, count>(strip, panel, at + lane, stride); });
      lane += kStripVectors * kWidth;
    }
  }
}

// The next `inputs` inputs of a token as words, at most a vector of them.
void load_words(const uint16_t* x, int64_t inputs, float* words) {
  if (inputs >= 2 * kWidth) {
    std::memcpy(words, x, kWidth * sizeof(float));
    return;
  }
  std::memset(words, 0, kWidth * sizeof(float));
  std::memcpy(words, x, static_cast<std::size_t>(inputs) * sizeof(uint16_t));
}

void pack(const HalfProduct& product, int64_t columns, int64_t first, int64_t tokens, float* panel) {
  constexpr int kSquare = kWidth * kWidth;
  alignas(64) float in[kSquare];
  alignas(64) float out[(kSums + kWidth - 1) / kWidth * kSquare];
  const int64_t words = (columns + 1) / 2;
  for (int64_t word = 0; word < words; word += kWidth) {
    const uint16_t* x = product.x + first * product.x_stride + 2 * word;
    if (tokens == 1) {
      load_words(x, columns - 2 * word, panel + word);
      continue;
    }
    for (int64_t m = 0; m < tokens; m += kWidth) {
      for (int64_t i = 0; i < kWidth && m + i < tokens; ++i)
        load_words(x + (m + i) * product.x_stride, columns - 2 * word, in + i * kWidth);
      Simd::transpose(in, kWidth, out + m * kWidth, kWidth);
    }
    // A vector that is wider than the tokens left writes into the next word, which is written after it.
    for (int64_t w = 0; w < kWidth && word + w < words; ++w)
      for (int64_t m = 0; m < tokens; m += kWidth)
        Simd::storeu(panel + (word + w) * tokens + m, Simd::load(out + m * kWidth + w * kWidth));
  }
}

constexpr sparsekit::BlockHalfKernels kBlockHalfKernels = {kWidth,  kStripVectors, kSums, 1,
                                                           nullptr, nullptr,       pack,  multiply};

}  // namespace
