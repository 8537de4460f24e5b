// Storing the results of a convolution; included after one instruction set.
#pragma once

#include <limits>

#include "kernels/activation_vectors.h"
#include "kernels/conv.h"
#include "kernels/conv_element.h"
#include "simd/unroll.h"

namespace {

Vec bias_of(const sparsekit::ConvPanel& panel, int64_t row) {
  return panel.operands->bias == nullptr ? Simd::zero() : Simd::set1(panel.operands->bias[row]);
}

// Results that the second-level cache holds do not need to be fetched before they are written.
constexpr int64_t kNearBytes = 1 << 20;

// Where the lanes of a strip go in y.
template <class Element>
class Targets {
  using Scalar = typename Element::Scalar;

 public:
  explicit Targets(const sparsekit::ConvPanel& panel) : activation_(panel.layout->shape.activation) {
    const sparsekit::ConvLayout& layout = *panel.layout;
    sparsekit::ConvSegment segments[kWidth];
    count_ = layout.segments(panel.strip, segments);
    plane_ = layout.plane;
    row_ = layout.out_width;
    least_rows_ = layout.rows;
    for (int s = 0; s < count_; ++s) {
      const auto& found = segments[s];
      offsets_[s] = found.image * panel.out_rows * plane_ + found.row * row_ + found.column - found.begin;
      rows_[s] = layout.out_height - found.row;
      least_rows_ = rows_[s] < least_rows_ ? rows_[s] : least_rows_;
      lanes_[s] = last_lanes_[s] = Simd::lanes(found.begin, found.end);
    }
    // The last row of a flat image may be shorter.
    if (layout.flat && plane_ % kWidth != 0) last_lanes_[0] = Simd::lanes(0, static_cast<int>(plane_ % kWidth));
    const int64_t results = layout.size.batch * panel.out_rows * plane_;
    near_ = results * static_cast<int64_t>(sizeof(Scalar)) <= kNearBytes;
    simple_ = activation_ == sparsekit::Activation::none || activation_ == sparsekit::Activation::relu;
    least_ = activation_ == sparsekit::Activation::none ? -std::numeric_limits<float>::infinity() : 0.0f;
  }

  // Stores vectors, one for each row of the panel, as output `n` of the weight.
  template <int kRows>
  SPARSEKIT_INLINE void store(const sparsekit::ConvPanel& panel, int64_t n, const Vec* vectors) const {
    if (simple_ && kRows <= least_rows_) {
      Scalar* y = static_cast<Scalar*>(panel.operands->y) + n * plane_;
      const Vec least = Simd::set1(least_);
      for (int s = 0; s < count_; ++s) {
        Scalar* to = y + offsets_[s];
        SPARSEKIT_UNROLL
        for (int j = 0; j < kRows; ++j)
          Element::store(to + j * row_, Simd::max(least, vectors[j]),
                         j + 1 == kRows && rows_[s] == kRows ? last_lanes_[s] : lanes_[s]);
      }
      return;
    }
    alignas(64) float sums[kRows * kWidth];
    SPARSEKIT_UNROLL
    for (int j = 0; j < kRows; ++j) Simd::store(sums + j * kWidth, vectors[j]);
    store_some(panel, n, kRows, sums);
  }

  // The lines of y arrive while the weights are multiplied. Inline, since GCC drops calls of what only prefetches.
  SPARSEKIT_INLINE void prefetch(const sparsekit::ConvPanel& panel, int64_t n) const {
    if (near_) return;
    for (int s = 0; s < count_; ++s) {
      Scalar* y = static_cast<Scalar*>(panel.operands->y) + n * plane_ + offsets_[s];
      const int64_t last = rows_[s] < panel.layout->rows ? rows_[s] : panel.layout->rows;
      for (int64_t j = 0; j < last; ++j) {
        Simd::prefetch_to_write(y + j * row_);
        if (row_ != kWidth) Simd::prefetch_to_write(y + j * row_ + kWidth - 1);
      }
    }
  }

 private:
  // Rows that end early, and activations that take longer.
  __attribute__((noinline)) void store_some(const sparsekit::ConvPanel& panel, int64_t n, int rows,
                                            const float* sums) const {
    Scalar* y = static_cast<Scalar*>(panel.operands->y) + n * plane_;
    for (int s = 0; s < count_; ++s) {
      Scalar* to = y + offsets_[s];
      const int64_t last = rows_[s] < rows ? rows_[s] : rows;
      for (int64_t j = 0; j < last; ++j)
        Element::store(to + j * row_, activated(Simd::load(sums + j * kWidth), activation_),
                       j + 1 == rows_[s] ? last_lanes_[s] : lanes_[s]);
    }
  }

  sparsekit::Activation activation_;
  bool near_;
  bool simple_;  // activations are limits from below
  float least_;
  int count_;
  int64_t plane_, row_, least_rows_;
  int64_t offsets_[kWidth], rows_[kWidth];
  Simd::Lanes lanes_[kWidth], last_lanes_[kWidth];  // of the last row of an image
};

}  // namespace
