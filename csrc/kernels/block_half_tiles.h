// The kernel for blocks in bfloat16 over `Tiles`: 16 tokens x 16 words of inputs times 16 words x 16 outputs at once.
#pragma once

#include <cstring>
#include <type_traits>
#include <utility>

#include "kernels/block_half.h"
#include "simd/unroll.h"

namespace {

using sparsekit::BlockHalfView;
using sparsekit::HalfProduct;

constexpr int kSide = 16;  // tokens, words and outputs of a tile
constexpr int kStripVectors = 2;
constexpr int kSumTiles = 4;  // tiles 0 to 3; 4 and 5 hold activations, 6 and 7 weights
constexpr int kFirstX = 4, kFirstWeight = 6;

// Calls body(constant) for 0 .. kCount - 1: tiles are numbered in the instructions.
template <class Body, int... kIndices>
SPARSEKIT_INLINE void for_each_of(std::integer_sequence<int, kIndices...>, Body body) {
  (body(std::integral_constant<int, kIndices>()), ...);
}
template <int kCount, class Body>
SPARSEKIT_INLINE void for_each_constant(Body body) {
  for_each_of(std::make_integer_sequence<int, kCount>(), body);
}

// One strip of outputs of one block row: its sums for kTokenTiles x 16 tokens live in tiles from first to last word.
template <int kVectors, int kTokenTiles>
void multiply_strip(const float* weights, const uint16_t* words, int64_t count, const float* panel, int64_t panel_words,
                    float* sums, int64_t stride) {
  constexpr int64_t kBytes = sizeof(float);
  for_each_constant<kVectors * kTokenTiles>([](auto i) { Tiles::zero<i>(); });
  for (int64_t at = 0; at < count; at += kSide) {
    const float* weight = weights + at * (kVectors * kSide);
    const float* x = panel + words[at];
    for_each_constant<kVectors>(
        [&](auto v) { Tiles::load<kFirstWeight + v>(weight + v * kSide, kVectors * kSide * kBytes); });
    for_each_constant<kTokenTiles>([&](auto t) {
      Tiles::load<kFirstX + t % 2>(x + t * kSide * panel_words, panel_words * kBytes);
      for_each_constant<kVectors>([](auto v) {
        Tiles::mac_pairs<decltype(t)::value * kVectors + v, kFirstX + decltype(t)::value % 2, kFirstWeight + v>();
      });
    });
  }
  for_each_constant<kTokenTiles>([&](auto t) {
    for_each_constant<kVectors>([&](auto v) {
      Tiles::store<decltype(t)::value * kVectors + v>(sums + t * kSide * stride + v * kSide, stride * kBytes);
    });
  });
}

void multiply(const BlockHalfView& w, const float* panel, int64_t tokens, int64_t begin, int64_t end, float* sums,
              int64_t stride) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t from = w.offsets[row], count = w.offsets[row + 1] - from;
    for (int64_t lane = 0; lane < w.lanes; lane += kStripVectors * kSide) {
      const auto strip = [&](auto vectors, auto tiles, int64_t first) {
        multiply_strip<decltype(vectors)::value, decltype(tiles)::value>(
            w.weights + from * w.lanes + lane * count, w.words + from, count, panel + first * w.panel_words,
            w.panel_words, sums + first * stride + (row - begin) * w.block_rows + lane, stride);
      };
      using One = std::integral_constant<int, 1>;
      using Two = std::integral_constant<int, 2>;
      const bool wide = w.lanes - lane >= kStripVectors * kSide;
      for (int64_t first = 0; first < tokens; first += 2 * kSide) {
        if (wide && tokens - first > kSide)
          strip(Two(), Two(), first);
        else if (wide)
          strip(Two(), One(), first);
        else if (tokens - first > kSide)
          strip(One(), Two(), first);
        else
          strip(One(), One(), first);
      }
    }
  }
}

void pack(const HalfProduct& product, int64_t columns, int64_t first, int64_t tokens, float* panel) {
  const int64_t words = sparsekit::panel_words(columns, kSide);
  for (int64_t m = 0; m < tokens; ++m) {
    float* to = panel + m * words;
    std::memset(to + columns / 2, 0, static_cast<std::size_t>(words - columns / 2) * sizeof(float));
    if (columns > 0)  // x may be null where there are none
      std::memcpy(to, product.x + (first + m) * product.x_stride, static_cast<std::size_t>(columns) * sizeof(uint16_t));
  }
  const int64_t whole = (tokens + kSide - 1) / kSide * kSide;
  std::memset(panel + tokens * words, 0, static_cast<std::size_t>((whole - tokens) * words) * sizeof(float));
}

constexpr sparsekit::BlockHalfKernels kBlockHalfKernels = {
    kSide, kStripVectors, kSumTiles * kSide, kSide, Tiles::configure, Tiles::release, pack, multiply};

}  // namespace
