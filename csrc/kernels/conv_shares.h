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

// Panels that stay in the second-level cache while the weight passes.
constexpr int64_t kPanelBytes = 448 << 10;

// Calls body(panel, begin, end) for every strip and the units [begin, end) of the weight, dealt to threads by cost;
// see share_panels. `adds` is the multiply-adds of one entry and pixel. Strips are packed by the threads that use them.
template <class Body>
void share_strips(const ConvLayout& layout, const ConvKernels& kernels, const ConvOperands& operands, int64_t out_rows,
                  const std::vector<int64_t>& offsets, int64_t unit_cost, int64_t adds, Body body) {
  const int64_t floats = std::max<int64_t>(
      1, (layout.shape.channels + kernels.channels - 1) / kernels.channels * layout.channel_lines * layout.width);
  const int64_t together =
      std::clamp<int64_t>(kPanelBytes / (4 * floats), 1, std::max<int64_t>(1, layout.strips / omp_get_max_threads()));
  const int64_t groups = (layout.strips + together - 1) / together;
  const int64_t units = static_cast<int64_t>(offsets.size()) - 1;
  const int64_t work = (offsets.back() + unit_cost * units) * adds * layout.strips * layout.rows * layout.width;
  parallel(work, groups * units, [&](int part, int parts) {
    static thread_local Scratch scratch;
    float* lines = scratch.floats(static_cast<std::size_t>(together * floats));
    share_panels(offsets, unit_cost, 1, groups, part, parts, [&](int64_t group, int64_t begin, int64_t end) {
      const int64_t first = group * together, last = std::min(layout.strips, first + together);
      for (int64_t s = first; s < last; ++s) kernels.pack(layout, operands, s, lines + (s - first) * floats);
      for (int64_t s = first; s < last; ++s)
        body(ConvPanel{&layout, &operands, lines + (s - first) * floats, s, layout.rows_of(s), out_rows}, begin, end);
    });
  });
}

}  // namespace sparsekit
