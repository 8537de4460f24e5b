// How the image of a convolution is cut into panels that stay in the caches.
//
// A panel serves `rows` output rows of one strip: as many output columns as a vector has lanes. The columns of all
// images and bands of rows are laid end to end before they are cut into strips, so that narrow images fill vectors as
// well. For each input channel and kernel column a panel holds the input rows that these output rows read, shifted by
// that column: every weight then reads `rows` aligned vectors that lie end to end, at an offset that depends on its
// channel and its tap alone.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/activation.h"

namespace sparsekit {

constexpr int64_t kMostKernelSide = 16;
constexpr int kMostPanelRows = 8;
// Lines of one kernel column; what reaches further down is refused.
constexpr int64_t kMostColumnLines = 128;

// What a convolution does beside its weight; (height, width) pairs. Padding is zeros.
struct ConvShape {
  int64_t channels, groups;
  int64_t kernel[2], stride[2], dilation[2];
  int64_t before[2], after[2];  // padding
  Activation activation;

  int64_t taps() const { return kernel[0] * kernel[1]; }
  // At most so many lines has one kernel column, whatever the image.
  int64_t most_column_lines() const {
    const int64_t phases = stride[0] < kernel[0] ? stride[0] : kernel[0];
    return phases * (kMostPanelRows + (kernel[0] - 1) * dilation[0] / stride[0]);
  }
};

struct ConvSize {
  int64_t batch, height, width;

  bool operator==(const ConvSize& o) const { return batch == o.batch && height == o.height && width == o.width; }
};

// y = activation(conv(x) + bias); x and y are fp32 or bfloat16, sums are fp32.
struct ConvOperands {
  const void* x;  // (batch, channels, height, width); a row is contiguous
  ConvSize size;
  int64_t image_stride, channel_stride, row_stride;  // elements
  const float* bias;                                 // (rows,) or null
  void* y;                                           // (batch, rows, out height, out width), contiguous

  bool whole_rows() const { return row_stride == size.width; }
};

// The lanes [begin, end) of a strip: columns of one image from `column` on, output rows from `row` on.
struct ConvSegment {
  int begin, end;
  int64_t image, row, column;
};

// All panels of one input size. Offsets count lines of one vector each.
class ConvLayout {
 public:
  // The number of rows is chosen, up to `most_rows`, so that the fewest lanes stay empty. `whole_rows` says that the
  // rows of a channel lie end to end.
  ConvLayout(const ConvShape& shape, const ConvSize& size, bool whole_rows, int width, int most_rows);

  // Writes the segments of a strip, at most `width` of them, and returns how many there are.
  int segments(int64_t strip, ConvSegment* found) const;
  // Output rows of a strip that lie inside the image; all rows where several bands meet, of which the store takes some.
  int rows_of(int64_t strip) const;
  // The line of a weight's first vector in its channel.
  int64_t tap_line(int64_t tap) const { return tap_lines_[static_cast<std::size_t>(tap)]; }

  ConvShape shape;
  ConvSize size;
  int64_t out_height, out_width;  // of a flat image: its vectors, and their lanes
  int width;                      // lanes of a vector
  int rows;                       // output rows of a panel
  int64_t pitch;                  // lanes from one band to the next, at least its columns
  int64_t bands, strips;          // bands of rows in an image; strips in all
  bool flat;                      // a 1 x 1 convolution that sees an image as one row, cut into rows of one vector
  int64_t plane;                  // pixels of an output
  // The remainders that input rows leave when divided by the stride, where a tap reads such rows.
  int64_t phases[kMostKernelSide];
  int64_t phase_count;
  int64_t phase_lines;   // lines of one phase
  int64_t column_lines;  // lines of one kernel column
  int64_t channel_lines;

 private:
  std::vector<int64_t> tap_lines_;
};

}  // namespace sparsekit
