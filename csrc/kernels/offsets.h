// Offsets of rows into a list of entries, shared by the row-wise formats.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/check.h"

namespace sparsekit {

// A 64-bit copy of `count` + 1 offsets, refused unless they rise from 0 to `entries`.
inline std::vector<int64_t> checked_offsets(const std::string& format, const void* offsets, bool wide, int64_t count,
                                            int64_t entries) {
  std::vector<int64_t> copy(static_cast<std::size_t>(count) + 1);
  for (int64_t i = 0; i <= count; ++i) {
    copy[i] = wide ? static_cast<const int64_t*>(offsets)[i] : static_cast<const int32_t*>(offsets)[i];
    check(i == 0 ? copy[i] == 0 : copy[i] >= copy[i - 1],
          format + ": expected offsets that rise from 0, got " + std::to_string(copy[i]) + " at " + std::to_string(i));
  }
  check(copy[count] == entries,
        format + ": expected offsets that end at " + std::to_string(entries) + ", got " + std::to_string(copy[count]));
  return copy;
}

// The row at which share-out `position` falls: work is entries plus `row_cost` a row; the row is a multiple of `step`,
// or the number of rows where the position is the end of all work.
inline int64_t row_at(const std::vector<int64_t>& offsets, int64_t row_cost, int64_t step, int64_t position) {
  const int64_t rows = static_cast<int64_t>(offsets.size()) - 1;
  if (position >= offsets[rows] + row_cost * rows) return rows;
  int64_t low = 0, high = rows;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (offsets[middle] + row_cost * middle < position)
      low = middle + 1;
    else
      high = middle;
  }
  return low / step * step;
}

// Calls body(panel, begin, end) for the rows [begin, end) of each panel that share `part` of `parts` works on: the
// panels' work, laid end to end, is cut into equal parts, so that shares are equal by entries and not by rows.
template <class Body>
void share_panels(const std::vector<int64_t>& offsets, int64_t row_cost, int64_t step, int64_t panels, int part,
                  int parts, Body body) {
  const int64_t rows = static_cast<int64_t>(offsets.size()) - 1;
  const int64_t cost = offsets[rows] + row_cost * rows;  // of one panel
  const int64_t from = panels * cost * part / parts;
  const int64_t to = panels * cost * (part + 1) / parts;
  if (cost == 0) return;
  for (int64_t panel = from / cost; panel < panels && panel * cost < to; ++panel) {
    const int64_t begin = panel * cost < from ? row_at(offsets, row_cost, step, from - panel * cost) : 0;
    const int64_t end = row_at(offsets, row_cost, step, to - panel * cost);
    if (begin < end) body(panel, begin, end);
  }
}

}  // namespace sparsekit
