#include "kernels/conv_panel.h"

#include <algorithm>
#include <limits>

#include "core/check.h"

namespace sparsekit {

namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t out_of(const ConvShape& shape, int axis, int64_t in) {
  const int64_t reach = shape.dilation[axis] * (shape.kernel[axis] - 1) + 1;
  check(in + shape.before[axis] + shape.after[axis] >= reach, "convolution: expected images as large as the kernel");
  return (in + shape.before[axis] + shape.after[axis] - reach) / shape.stride[axis] + 1;
}

}  // namespace

ConvLayout::ConvLayout(const ConvShape& given, const ConvSize& input, bool whole_rows, int lanes, int most_rows)
    : shape(given), size(input), width(lanes) {
  out_height = out_of(shape, 0, size.height);
  out_width = out_of(shape, 1, size.width);
  plane = out_height * out_width;
  bool plain = shape.taps() == 1;
  for (int axis = 0; axis < 2; ++axis)
    plain = plain && shape.stride[axis] == 1 && shape.before[axis] == 0 && shape.after[axis] == 0;
  flat = plain && whole_rows && plane >= width;
  if (flat) {
    out_height = ceil_div(plane, width);
    out_width = width;
  }
  const auto strips_of = [&](int64_t high) {
    return ceil_div(size.batch * ceil_div(out_height, high) * out_width, width);
  };
  // Work beside the multiply-adds, in vectors for each weight: its offset, its broadcast, its share of the packing.
  constexpr double kOverhead = 1.5;
  double least = std::numeric_limits<double>::max();
  rows = 1;
  for (int high = 1; high <= most_rows; ++high) {
    const double cost = static_cast<double>(strips_of(high)) * (high + kOverhead);
    if (cost <= least) {
      least = cost;
      rows = high;
    }
  }
  bands = ceil_div(out_height, rows);
  strips = strips_of(rows);
  // Where it takes no more strips, a band begins one of its own: two threads then never write one line of y.
  const int64_t whole = ceil_div(out_width, width);
  pitch = whole * bands * size.batch == strips ? whole * width : out_width;
  const int64_t step = shape.stride[0];
  int64_t last = 0;
  phase_count = 0;
  for (int64_t y = 0; y < shape.kernel[0]; ++y) {
    const int64_t row = y * shape.dilation[0];
    if (std::find(phases, phases + phase_count, row % step) == phases + phase_count) phases[phase_count++] = row % step;
    last = row / step;
  }
  phase_lines = rows + last;
  column_lines = phase_count * phase_lines;
  channel_lines = shape.kernel[1] * column_lines;
  for (int64_t tap = 0; tap < shape.taps(); ++tap) {
    const int64_t row = tap / shape.kernel[1] * shape.dilation[0];
    const int64_t phase = std::find(phases, phases + phase_count, row % step) - phases;
    tap_lines_.push_back(tap % shape.kernel[1] * column_lines + phase * phase_lines + row / step);
  }
}

int ConvLayout::rows_of(int64_t strip) const {
  const int64_t first = strip * width / pitch, last = ((strip + 1) * width - 1) / pitch;
  // Only the last band of an image is lower than the others.
  if (first != last || first % bands + 1 != bands) return rows;
  return static_cast<int>(out_height - (bands - 1) * rows);
}

int ConvLayout::segments(int64_t strip, ConvSegment* found) const {
  const int64_t all = size.batch * bands * pitch;
  int count = 0;
  for (int64_t lane = 0; lane < width && strip * width + lane < all;) {
    const int64_t place = strip * width + lane;
    const int64_t band = place / pitch, column = place % pitch;
    const int64_t end = std::min<int64_t>(width, lane + out_width - column);
    found[count++] = {static_cast<int>(lane), static_cast<int>(end), band / bands, band % bands * rows, column};
    lane += pitch - column;
  }
  return count;
}

}  // namespace sparsekit
