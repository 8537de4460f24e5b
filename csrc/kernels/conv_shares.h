// What the arrangements of convolution weights share: the check of the shape, and the work dealt to threads.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "core/check.h"
#include "core/scratch.h"
#include "core/threads.h"
#include "kernels/conv.h"
#include "kernels/offsets.h"

namespace sparsekit {

inline void check_shape(const std::string& format, const ConvShape& shape, int64_t rows, int64_t columns) {
  bool positive = shape.channels > 0 && shape.groups > 0;
  for (int axis = 0; axis < 2; ++axis)
    positive = positive && shape.kernel[axis] > 0 && shape.stride[axis] > 0 && shape.dilation[axis] > 0;
  for (int axis = 0; axis < 2; ++axis)
    positive = positive && shape.dilation[axis] <= 1 << 20 && shape.before[axis] >= 0 && shape.after[axis] >= 0;
  check(positive && shape.channels % shape.groups == 0 && rows % shape.groups == 0,
        format + ": expected positive sizes, and channels and rows that the groups divide");
  check(shape.kernel[0] <= kMostKernelSide && shape.kernel[1] <= kMostKernelSide,
        format + ": expected kernels of at most " + std::to_string(kMostKernelSide) + " on a side");
  check(shape.most_column_lines() <= kMostColumnLines, format + ": expected kernels whose rows take at most " +
                                                           std::to_string(kMostColumnLines) + " lines, got " +
                                                           std::to_string(shape.most_column_lines()));
  check(columns == shape.channels / shape.groups * shape.taps(),
        format + ": expected " + std::to_string(shape.channels / shape.groups * shape.taps()) + " columns, got " +
            std::to_string(columns));
}

// Lines of a panel that are packed in the time that a plane of y costs whose cache lines two threads write.
constexpr int64_t kSharedPlaneLines = 16;
// Units for each thread, at least, so that whole units make about equal shares.
constexpr int64_t kLeastUnits = 4;

// Whether each thread takes some units for all strips, and so whole planes of y, rather than some strips for all units:
// then every thread packs all strips, but where strips of one image go to several threads, these write the same lines.
// `lines` is those of a strip.
inline bool shared_by_units(const ConvLayout& layout, int64_t lines, int64_t out_rows, int64_t units, int parts) {
  return layout.size.batch % parts != 0 && units >= kLeastUnits * parts &&
         lines * layout.strips / parts < kSharedPlaneLines * out_rows;
}

// Calls body(panel, begin, end) for every strip and the units [begin, end) of the weight, dealt to threads by cost; see
// share_panels. `adds` is the multiply-adds of one entry and pixel. A strip is packed by the threads that use it, right
// before they do.
template <class Body>
void share_strips(const ConvLayout& layout, const ConvKernels& kernels, const ConvOperands& operands, int64_t out_rows,
                  const std::vector<int64_t>& offsets, int64_t unit_cost, int64_t adds, Body body) {
  const int64_t lines = (layout.shape.channels + kernels.channels - 1) / kernels.channels * layout.channel_lines;
  const int64_t units = static_cast<int64_t>(offsets.size()) - 1;
  const int64_t work = (offsets.back() + unit_cost * units) * adds * layout.strips * layout.rows * layout.width;
  parallel(work, layout.strips * units, [&](int part, int parts) {
    static thread_local Scratch scratch;
    float* packed = scratch.floats(static_cast<std::size_t>(lines * layout.width));
    // The units [begin, end) from `start` on, and then those before it.
    const auto multiply = [&](int64_t strip, int64_t begin, int64_t end, int64_t start) {
      kernels.pack(layout, operands, strip, packed);
      const ConvPanel panel{&layout, &operands, packed, strip, layout.rows_of(strip), out_rows};
      body(panel, start, end);
      if (begin < start) body(panel, begin, start);
    };
    if (shared_by_units(layout, lines, out_rows, units, parts)) {
      share_panels(offsets, unit_cost, 1, 1, part, parts, [&](int64_t, int64_t begin, int64_t end) {
        for (int64_t strip = 0; strip < layout.strips; ++strip) multiply(strip, begin, end, begin);
      });
    } else {
      // Each thread starts elsewhere in y: the lines that two of them write then move between their caches only once.
      share_panels(offsets, unit_cost, 1, layout.strips, part, parts, [&](int64_t strip, int64_t begin, int64_t end) {
        multiply(strip, begin, end, begin + (end - begin) * part / parts);
      });
    }
  });
}

}  // namespace sparsekit
