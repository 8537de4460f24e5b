// Packing the input of a convolution into panels; included after one instruction set.
#pragma once

#include "kernels/conv.h"
#include "kernels/conv_element.h"
#include "simd/unroll.h"

namespace {

constexpr int kMostKernelWidth = sparsekit::kMostKernelSide;

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

// Where the lanes of a strip of up to kMost segments come from.
template <int kMost>
struct Sources {
  Piece pieces[kMost][kMostKernelWidth];
  int64_t rows[sparsekit::kMostColumnLines][kMost];  // where the rows of a channel's lines begin, or -1 outside

  Sources(const sparsekit::ConvLayout& layout, const sparsekit::ConvOperands& operands,
          const sparsekit::ConvSegment* segments, int count) {
    const auto& shape = layout.shape;
    for (int s = 0; s < count; ++s) {
      for (int64_t k = 0; k < shape.kernel[1]; ++k) pieces[s][k] = piece_of(layout, segments[s], k);
      for (int64_t p = 0; p < layout.column_lines; ++p) {
        const int64_t above = layout.phases[p / layout.phase_lines] - shape.before[0];
        const int64_t y = (segments[s].row + p % layout.phase_lines) * shape.stride[0] + above;
        const bool inside = y >= 0 && y < layout.size.height;
        rows[p][s] = inside ? segments[s].image * operands.image_stride + y * operands.row_stride : -1;
      }
    }
  }
};

// A strip of any number of segments, for any number of kernel columns.
template <class Element>
void pack_segments(const sparsekit::ConvLayout& layout, const sparsekit::ConvOperands& operands,
                   const sparsekit::ConvSegment* segments, int count, float* line) {
  const auto& shape = layout.shape;
  const Sources<kWidth> from(layout, operands, segments, count);
  const int64_t step = shape.stride[1], columns = shape.kernel[1];
  const int64_t next = operands.channel_stride, stride = layout.column_lines * kWidth;
  for (int64_t c = 0; c < shape.channels; c += Element::kChannels, line += columns * stride) {
    const auto* channel = static_cast<const typename Element::Scalar*>(operands.x) + c * next;
    const bool both = Element::kChannels == 2 && c + 1 < shape.channels;
    for (int64_t p = 0; p < layout.column_lines; ++p)
      for (int64_t k = 0; k < columns; ++k) {
        Vec sum = Simd::zero();
        for (int s = 0; s < count; ++s) {
          if (from.rows[p][s] < 0) continue;
          const auto* x = channel + from.rows[p][s] + from.pieces[s][k].offset;
          sum = Simd::merge(sum, Element::load(x, both ? x + next : nullptr, step, from.pieces[s][k].chosen));
        }
        Simd::store(line + k * stride + p * kWidth, sum);
      }
  }
}

// One row of a segment, for kColumns kernel columns that follow each other.
template <class Element, int kColumns, int kStep>
SPARSEKIT_INLINE void load_columns(const typename Element::Scalar* x, const typename Element::Scalar* next,
                                   int64_t dilation, const Simd::Steps* chosen, Vec* out) {
  if (kColumns == 3 && kStep == 2) return Element::load_second(x, next, chosen, out);
  SPARSEKIT_UNROLL
  for (int k = 0; k < kColumns; ++k)
    out[k] = Element::load(x + k * dilation, next == nullptr ? next : next + k * dilation, kStep, chosen[k]);
}

// A strip of one or two segments, for one kernel column or three, as are most: what tells their lanes stays in
// registers.
template <class Element, int kColumns, int kSegments, int kStep>
void pack_columns(const sparsekit::ConvLayout& layout, const sparsekit::ConvOperands& operands,
                  const sparsekit::ConvSegment* segments, float* line) {
  const Sources<kSegments> from(layout, operands, segments, kSegments);
  Simd::Steps chosen[kSegments][kColumns];
  SPARSEKIT_UNROLL
  for (int s = 0; s < kSegments; ++s) {
    SPARSEKIT_UNROLL
    for (int k = 0; k < kColumns; ++k) chosen[s][k] = from.pieces[s][k].chosen;
  }
  const int64_t channels = layout.shape.channels, dilation = layout.shape.dilation[1], lines = layout.column_lines;
  const int64_t next = operands.channel_stride, stride = lines * kWidth;
  for (int64_t c = 0; c < channels; c += Element::kChannels, line += kColumns * stride) {
    const auto* channel = static_cast<const typename Element::Scalar*>(operands.x) + c * next;
    const bool both = Element::kChannels == 2 && c + 1 < channels;
    for (int64_t p = 0; p < lines; ++p) {
      Vec sum[kColumns];
      SPARSEKIT_UNROLL
      for (int k = 0; k < kColumns; ++k) sum[k] = Simd::zero();
      SPARSEKIT_UNROLL
      for (int s = 0; s < kSegments; ++s) {
        if (from.rows[p][s] < 0) continue;
        const auto* x = channel + from.rows[p][s] + from.pieces[s][0].offset;
        Simd::prefetch(x + kWidth * kStep / 2 + kAhead * next);
        Vec part[kColumns];
        load_columns<Element, kColumns, kStep>(x, both ? x + next : nullptr, dilation, chosen[s], part);
        SPARSEKIT_UNROLL
        for (int k = 0; k < kColumns; ++k) sum[k] = s == 0 ? part[k] : Simd::merge(sum[k], part[k]);
      }
      SPARSEKIT_UNROLL
      for (int k = 0; k < kColumns; ++k) Simd::store(line + k * stride + p * kWidth, sum[k]);
    }
  }
}

// A flat image: its rows are a vector long and lie end to end.
template <class Element>
void pack_flat(const sparsekit::ConvLayout& layout, const sparsekit::ConvOperands& operands,
               const sparsekit::ConvSegment& segment, float* line) {
  const int64_t next = operands.channel_stride, channels = layout.shape.channels;
  const auto* x = static_cast<const typename Element::Scalar*>(operands.x) + segment.image * operands.image_stride +
                  segment.row * kWidth;
  const int64_t left = layout.size.height * layout.size.width - segment.row * kWidth;
  const int64_t whole = left / kWidth < layout.rows ? left / kWidth : layout.rows;  // rows with all lanes
  const auto all = Simd::steps(Simd::lanes(0, kWidth));
  const auto last = Simd::steps(Simd::lanes(0, static_cast<int>(whole < layout.rows ? left % kWidth : 0)));
  for (int64_t c = 0; c < channels; c += Element::kChannels, x += Element::kChannels * next) {
    const bool both = Element::kChannels == 2 && c + 1 < channels;
    const auto load = [&](int64_t i, Simd::Steps chosen) {
      const auto* row = x + i * kWidth;
      Simd::prefetch(row + kAhead * next);
      return Element::load(row, both ? row + next : nullptr, 1, chosen);
    };
    int64_t i = 0;
    for (; i < whole; ++i) Simd::store(line + i * kWidth, load(i, all));
    for (; i < layout.rows; ++i) Simd::store(line + i * kWidth, i == whole ? load(i, last) : Simd::zero());
    line += layout.rows * kWidth;
  }
}

template <class Element, int kColumns, int kSegments>
void pack_steps(const sparsekit::ConvLayout& layout, const sparsekit::ConvOperands& operands,
                const sparsekit::ConvSegment* segments, float* lines) {
  if (layout.shape.stride[1] == 1)
    pack_columns<Element, kColumns, kSegments, 1>(layout, operands, segments, lines);
  else
    pack_columns<Element, kColumns, kSegments, 2>(layout, operands, segments, lines);
}

template <class Element>
void pack(const sparsekit::ConvLayout& layout, const sparsekit::ConvOperands& operands, int64_t strip, float* lines) {
  sparsekit::ConvSegment segments[kWidth];
  const int count = layout.segments(strip, segments);
  const int64_t columns = layout.shape.kernel[1], step = layout.shape.stride[1];
  const bool few = columns == 1 || (columns == 3 && (step == 1 || layout.shape.dilation[1] == 1));
  if (layout.flat)
    pack_flat<Element>(layout, operands, segments[0], lines);
  else if (count > 2 || step > 2 || !few)
    pack_segments<Element>(layout, operands, segments, count, lines);
  else if (columns == 1)
    (count == 1 ? pack_steps<Element, 1, 1> : pack_steps<Element, 1, 2>)(layout, operands, segments, lines);
  else
    (count == 1 ? pack_steps<Element, 3, 1> : pack_steps<Element, 3, 2>)(layout, operands, segments, lines);
}

}  // namespace
