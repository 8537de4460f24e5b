// The two ends of a convolution: packing the input into panels, storing results; included after one instruction set.
#pragma once

#include <type_traits>

#include "kernels/conv.h"
#include "simd/unroll.h"

namespace {

using Vec = Simd::Vec;
constexpr int kWidth = Simd::kWidth;
constexpr int kMostKernelWidth = 16;

// One segment of a strip as one kernel column reads it: lane i is x[row * row_stride + offset + i * step].
struct Piece {
  int64_t offset;
  Simd::Lanes lanes;
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
  return {first - segment.begin * step, Simd::lanes(clip(skipped), clip(inside))};
}

void pack(const sparsekit::ConvLayout& layout, const sparsekit::ConvOperands& operands, int64_t strip, float* lines) {
  const auto& shape = layout.shape;
  sparsekit::ConvSegment segments[kWidth];
  const int count = layout.segments(strip, segments);
  Piece pieces[kWidth][kMostKernelWidth];
  const float* images[kWidth];
  for (int s = 0; s < count; ++s) {
    images[s] = operands.x + segments[s].image * operands.image_stride;
    for (int64_t k = 0; k < shape.kernel[1]; ++k) pieces[s][k] = piece_of(layout, segments[s], k);
  }
  const int64_t step = shape.stride[1];
  for (int64_t c = 0; c < shape.channels; ++c) {
    float* channel = lines + c * layout.channel_lines * kWidth;
    for (std::size_t phase = 0; phase < layout.phases.size(); ++phase) {
      for (int64_t i = 0; i < layout.phase_lines; ++i) {
        float* line = channel + (static_cast<int64_t>(phase) * layout.phase_lines + i) * kWidth;
        for (int s = 0; s < count; ++s) {
          const int64_t y = (segments[s].row + i) * shape.stride[0] + layout.phases[phase] - shape.before[0];
          const bool inside = y >= 0 && y < layout.size.height;
          const float* row = images[s] + c * operands.channel_stride + y * operands.row_stride;
          for (int64_t k = 0; k < shape.kernel[1]; ++k) {
            const Piece& piece = pieces[s][k];
            float* to = line + k * layout.column_lines * kWidth;
            Vec v = Simd::zero();
            if (inside)
              v = step == 1 ? Simd::load_lanes(row + piece.offset, piece.lanes)
                            : Simd::load_steps(row + piece.offset, step, piece.lanes);
            Simd::store(to, s == 0 ? v : Simd::merge(v, Simd::load(to)));
          }
        }
      }
    }
  }
}

Vec bias_of(const sparsekit::ConvPanel& panel, int64_t row) {
  return panel.operands->bias == nullptr ? Simd::zero() : Simd::set1(panel.operands->bias[row]);
}

// e^v for v in [-87, 87], to about one unit in the last place: a polynomial on [-ln 2 / 2, ln 2 / 2].
Vec exponential(Vec v) {
  const Vec n = Simd::round(Simd::mul(v, Simd::set1(1.44269504f)));
  Vec rest = Simd::fma(n, Simd::set1(-0.693359375f), v);
  rest = Simd::fma(n, Simd::set1(2.12194440e-4f), rest);
  Vec sum = Simd::set1(1.0f / 720);
  for (const float factor : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
    sum = Simd::fma(sum, rest, Simd::set1(factor));
  return Simd::scale(sum, n);
}

Vec activated(Vec v, sparsekit::Activation activation) {
  if (activation == sparsekit::Activation::none) return v;
  if (activation == sparsekit::Activation::relu) return Simd::max(Simd::zero(), v);
  v = Simd::max(Simd::set1(-87.0f), v);  // below, the result is 0 up to rounding
  const Vec power = Simd::max(Simd::min(Simd::mul(v, Simd::set1(-1.0f)), Simd::set1(87.0f)), Simd::set1(-87.0f));
  return Simd::div(v, Simd::add(Simd::set1(1.0f), exponential(power)));
}

// Where the lanes of a strip go in y.
class Targets {
 public:
  explicit Targets(const sparsekit::ConvPanel& panel) {
    const sparsekit::ConvLayout& layout = *panel.layout;
    sparsekit::ConvSegment segments[kWidth];
    count_ = layout.segments(panel.strip, segments);
    plane_ = layout.out_height * layout.out_width;
    row_ = layout.out_width;
    for (int s = 0; s < count_; ++s) {
      const auto& found = segments[s];
      offsets_[s] = found.image * panel.out_rows * plane_ + found.row * row_ + found.column - found.begin;
      rows_[s] = layout.out_height - found.row;
      lanes_[s] = Simd::lanes(found.begin, found.end);
    }
  }

  // Stores vector(j) for the kRows rows j of the panel as output `n` of the weight.
  template <int kRows, class Vector>
  SPARSEKIT_INLINE void store(const sparsekit::ConvPanel& panel, int64_t n, Vector vector) const {
    float* y = panel.operands->y + n * plane_;
    const sparsekit::Activation activation = panel.layout->shape.activation;
    SPARSEKIT_UNROLL
    for (int j = 0; j < kRows; ++j) {
      const Vec v = activated(vector(j), activation);
      for (int s = 0; s < count_; ++s)
        if (j < rows_[s]) Simd::store_lanes(y + offsets_[s] + j * row_, v, lanes_[s]);
    }
  }

  // The lines of y arrive while the weights are multiplied.
  void prefetch(const sparsekit::ConvPanel& panel, int64_t n) const {
    for (int j = 0; j < panel.layout->rows; ++j)
      if (j < rows_[0]) Simd::prefetch_to_write(panel.operands->y + n * plane_ + offsets_[0] + j * row_);
  }

 private:
  int count_;
  int64_t plane_, row_;
  int64_t offsets_[kWidth], rows_[kWidth];
  Simd::Lanes lanes_[kWidth];
};

}  // namespace
