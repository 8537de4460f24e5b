// Compressed sparse rows for few tokens where a window of the activations fits in registers: no activation is loaded
// for a weight, it is picked from four vectors that serve two weights of each of sixteen rows.
#pragma once

#include <cstdint>
#include <vector>

#include "core/pages.h"
#include "kernels/csr.h"

namespace sparsekit {

// Rows of a group: one per lane.
constexpr int kWindowRows = 16;
// Columns that a window shows.
constexpr int64_t kWindowColumns = 64;
// Entries of each row that are multiplied before the window moves on.
constexpr int kWindowSteps = 2;
constexpr int kWindowEntries = kWindowRows * kWindowSteps;
// Tokens up to which picking activations beats loading each for four tokens.
constexpr int64_t kMostWindowTokens = 2;

// The place of a column of the window in a byte: its lane in a pair of vectors, and the pair in the sign.
constexpr uint8_t window_place(int64_t column) { return static_cast<uint8_t>((column & 31) | (column & 32) << 2); }

// Rows of about one length, each in one lane; a lane without an entry that the window shows has weight 0 at one of its
// columns.
struct WindowView {
  int64_t rows;
  const int64_t* offsets;   // stages before each group
  const int32_t* order;     // the row in each place, or -1
  const float* values;      // kWindowEntries of a stage
  const uint8_t* places;    // their columns, see window_place
  const uint16_t* columns;  // the first column of each stage's window
};

// The weight in that order.
class CsrWindows {
 public:
  CsrWindows() = default;
  // The rows in `order` are grouped as they follow each other; -1 is none.
  CsrWindows(const CsrParts& parts, const std::vector<int64_t>& offsets, const std::vector<int32_t>& order);

  // Nothing is kept where too many places would stay empty, or windows do not reach all columns.
  bool empty() const { return columns_.empty(); }
  const std::vector<int64_t>& stages() const { return stages_; }
  WindowView view(int64_t rows, const std::vector<int32_t>& order) const {
    return {rows, stages_.data(), order.data(), values_.data(), places_.data(), columns_.data()};
  }

 private:
  template <class Index>
  void arrange(const CsrParts& parts, const std::vector<int64_t>& offsets, const std::vector<int32_t>& order);

  std::vector<int64_t> stages_;  // before each group
  Paged<float> values_;
  Paged<uint8_t> places_;
  std::vector<uint16_t> columns_;
};

}  // namespace sparsekit
