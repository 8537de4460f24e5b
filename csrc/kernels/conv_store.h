// The two ends of a convolution: packing the input into panels, storing results; included after one instruction set.
#pragma once

#include <limits>

#include "kernels/activation_vectors.h"
#include "kernels/conv.h"
#include "simd/unroll.h"

namespace {

using Vec = Simd::Vec;
constexpr int kWidth = Simd::kWidth;
constexpr int kMostKernelWidth = sparsekit::kMostKernelSide;

// What the panels and the results hold. A line of a panel has kChannels input channels side by side in each lane.
struct Fp32 {
  using Scalar = float;
  static constexpr int kChannels = 1;
  static Vec load(const float* x, const float*, std::ptrdiff_t step, Simd::Steps chosen) {
    return Simd::load_steps(x, step, chosen);
  }
  static Vec mac(Vec weight, Vec line, Vec sum) { return Simd::fma(weight, line, sum); }
  static void store(float* y, Vec v, Simd::Lanes lanes) { Simd::store_lanes(y, v, lanes); }
};

struct Bf16 {
  using Scalar = uint16_t;
  static constexpr int kChannels = 2;
  static Vec load(const uint16_t* x, const uint16_t* next, std::ptrdiff_t step, Simd::Steps chosen) {
    return Simd::load_pairs(x, next, step, chosen);
  }
  static Vec mac(Vec weight, Vec line, Vec sum) { return Simd::mac_pairs(weight, line, sum); }
  static void store(uint16_t* y, Vec v, Simd::Lanes lanes) { Simd::store_halves(y, v, lanes); }
};

// One segment of a strip as one kernel column reads it: lane i is x[row * row_stride + offset + i * step].
struct Piece {
  int64_t offset;
  Simd::Steps chosen;
};

// The lanes of a segment whose input column lies inside the image.
Piece piece_of(const sparsekit::ConvLayout& layout, const sparsekit::ConvSegment& segment, int64_t kernel_column) {
  const auto& shape = layout.shape;
  const int64_t step = shape.stride[1];
  const int64_t first = segment.column * step + kernel_column * shape.dilation[1] - shape.before[1];  // of lane `begin`
  const int64_t skipped = first < 0 ? (-first + step - 1) / step : 0;
  const int64_t inside = first < layout.size.width ? (layout.size.width - 1 - first) / step + 1 : 0;
  const int64_t count = segment.end - segment.begin;
  const auto clip = [&](int64_t lanes) { return static_cast<int>(segment.begin + (lanes < count ? lanes : count)); };
  return {first - segment.begin * step, Simd::steps(Simd::lanes(clip(skipped), clip(inside)))};
}

// Channels ahead of the one that is packed, whose rows are on their way to the caches.
constexpr int64_t kAhead = 3;

// Packs a strip of kSegments segments, or where that is 0 of `count` segments, for kColumns kernel columns, or where
// that is 0 for any number.
template <class Element, int kSegments, int kColumns, bool kUnitStep>
void pack_segments(const sparsekit::ConvLayout& layout, const sparsekit::ConvOperands& operands,
                   const sparsekit::ConvSegment* segments, int count, float* line) {
  using Scalar = typename Element::Scalar;
  const auto& shape = layout.shape;
  constexpr int kMost = kSegments == 0 ? kWidth : kSegments;
  if (kSegments != 0) count = kSegments;
  Piece pieces[kMost][kMostKernelWidth];
  int64_t rows[sparsekit::kMostColumnLines][kMost];  // where the rows of a channel's lines begin, or -1 outside
  for (int s = 0; s < count; ++s) {
    for (int64_t k = 0; k < shape.kernel[1]; ++k) pieces[s][k] = piece_of(layout, segments[s], k);
    for (int64_t p = 0; p < layout.column_lines; ++p) {
      const int64_t above = layout.phases[p / layout.phase_lines] - shape.before[0];
      const int64_t y = (segments[s].row + p % layout.phase_lines) * shape.stride[0] + above;
      const bool inside = y >= 0 && y < layout.size.height;
      rows[p][s] = inside ? segments[s].image * operands.image_stride + y * operands.row_stride : -1;
    }
  }
  const int64_t step = kUnitStep ? 1 : shape.stride[1], columns = kColumns == 0 ? shape.kernel[1] : kColumns;
  const int64_t next = operands.channel_stride, stride = layout.column_lines * kWidth;
  for (int64_t c = 0; c < shape.channels; c += Element::kChannels, line += columns * stride) {
    const Scalar* channel = static_cast<const Scalar*>(operands.x) + c * next;
    const bool both = Element::kChannels == 2 && c + 1 < shape.channels;
    for (int64_t p = 0; p < layout.column_lines; ++p) {
      SPARSEKIT_UNROLL
      for (int64_t k = 0; k < columns; ++k) {
        Vec sum = Simd::zero();
        SPARSEKIT_UNROLL
        for (int s = 0; s < count; ++s) {
          if (rows[p][s] < 0) continue;
          const Scalar* x = channel + rows[p][s] + pieces[s][k].offset;
          if (k == 0) {  // what is not on a line's start lies on two
            Simd::prefetch(x + kAhead * next);
            Simd::prefetch(x + kAhead * next + kWidth * step);
          }
          const Vec part = Element::load(x, both ? x + next : nullptr, step, pieces[s][k].chosen);
          sum = kSegments == 1 ? part : Simd::merge(sum, part);
        }
        Simd::store(line + k * stride + p * kWidth, sum);
      }
    }
  }
}

// A flat image: its rows are a vector long and lie end to end.
template <class Element>
void pack_flat(const sparsekit::ConvLayout& layout, const sparsekit::ConvOperands& operands,
               const sparsekit::ConvSegment& segment, float* line) {
  using Scalar = typename Element::Scalar;
  const int64_t next = operands.channel_stride, channels = layout.shape.channels;
  const Scalar* x =
      static_cast<const Scalar*>(operands.x) + segment.image * operands.image_stride + segment.row * kWidth;
  const int64_t left = layout.size.height * layout.size.width - segment.row * kWidth;
  for (int64_t c = 0; c < channels; c += Element::kChannels, x += Element::kChannels * next) {
    const bool both = Element::kChannels == 2 && c + 1 < channels;
    for (int64_t i = 0; i < layout.rows; ++i, line += kWidth) {
      const int64_t inside = left - i * kWidth;
      const Scalar* row = x + i * kWidth;
      Simd::prefetch(row + kAhead * next);
      const int lanes = static_cast<int>(inside < 0 ? 0 : inside < kWidth ? inside : kWidth);
      Simd::store(line, Element::load(row, both ? row + next : nullptr, 1, Simd::steps(Simd::lanes(0, lanes))));
    }
  }
}

template <class Element, int kSegments, int kColumns>
void pack_columns(const sparsekit::ConvLayout& layout, const sparsekit::ConvOperands& operands,
                  const sparsekit::ConvSegment* segments, int count, float* lines) {
  if (layout.shape.stride[1] == 1)
    pack_segments<Element, kSegments, kColumns, true>(layout, operands, segments, count, lines);
  else
    pack_segments<Element, kSegments, kColumns, false>(layout, operands, segments, count, lines);
}

template <class Element>
void pack(const sparsekit::ConvLayout& layout, const sparsekit::ConvOperands& operands, int64_t strip, float* lines) {
  sparsekit::ConvSegment segments[kWidth];
  const int count = layout.segments(strip, segments);
  if (layout.flat)
    pack_flat<Element>(layout, operands, segments[0], lines);
  else if (count == 1 && layout.shape.kernel[1] == 3)
    pack_columns<Element, 1, 3>(layout, operands, segments, count, lines);
  else if (count == 2 && layout.shape.kernel[1] == 3)
    pack_columns<Element, 2, 3>(layout, operands, segments, count, lines);
  else if (count == 1)
    pack_columns<Element, 1, 0>(layout, operands, segments, count, lines);
  else
    pack_columns<Element, 0, 0>(layout, operands, segments, count, lines);
}

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
