// Offsets of rows into a list of entries, shared by the row-wise formats.
#pragma once

#include <algorithm>
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

// Tokens to compute at a time: whole panels, at most `most` where that holds one, and about as many every time.
inline int64_t even_chunk(int64_t batch, int64_t most, int64_t panel) {
  const auto over = [](int64_t count, int64_t step) { return (count + step - 1) / step; };
  const int64_t whole = std::max(most / panel, int64_t{1}) * panel;
  const int64_t chunks = std::max(over(batch, whole), int64_t{1});
  return std::max(over(over(batch, chunks), panel), int64_t{1}) * panel;
}

// Calls body(first, tokens, begin, end) for the rows [begin, end) that share `part` of `parts` works on, for `chunk`
// tokens at a time: the chunks' work, laid end to end, is cut into equal parts, so that shares are equal by entries and
// tokens, not by rows and chunks.
template <class Body>
void share_chunks(const std::vector<int64_t>& offsets, int64_t row_cost, int64_t step, int64_t batch, int64_t chunk,
                  int part, int parts, Body body) {
  const int64_t rows = static_cast<int64_t>(offsets.size()) - 1;
  const int64_t cost = offsets[rows] + row_cost * rows;  // of one token
  const int64_t from = batch * cost * part / parts;
  const int64_t to = batch * cost * (part + 1) / parts;
  for (int64_t first = from / std::max(chunk * cost, int64_t{1}) * chunk; first * cost < to; first += chunk) {
    const int64_t tokens = std::min(chunk, batch - first);
    const int64_t begin = first * cost < from ? row_at(offsets, row_cost, step, (from - first * cost) / tokens) : 0;
    const int64_t end = row_at(offsets, row_cost, step, (to - first * cost) / tokens);
    if (begin < end) body(first, tokens, begin, end);
  }
}

// The same for panels that take equal time: calls body(panel, begin, end).
template <class Body>
void share_panels(const std::vector<int64_t>& offsets, int64_t row_cost, int64_t step, int64_t panels, int part,
                  int parts, Body body) {
  share_chunks(offsets, row_cost, step, panels, 1, part, parts,
               [&](int64_t panel, int64_t, int64_t begin, int64_t end) { body(panel, begin, end); });
}

}  // namespace sparsekit
