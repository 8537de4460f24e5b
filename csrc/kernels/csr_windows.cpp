#include "kernels/csr_windows.h"

#include <algorithm>

namespace sparsekit {

namespace {

// Windows begin at multiples of a cache line of activations.
constexpr int64_t kStep = 16;
// Most columns that the first column of a window counts.
constexpr int64_t kMostColumns = 1 << 16;
// Entries stored for one of the weight, at most: beyond, loading activations one by one reads fewer bytes and is as
// fast.
constexpr double kMostFill = 1.7;

// Moves a window over the rows of one group, each time as far as all of them allow.
template <class Index>
class Walk {
 public:
  Walk(const CsrParts& parts, const std::vector<int64_t>& offsets, const int32_t* rows)
      : indices_(static_cast<const Index*>(parts.indices)),
        last_(std::max<int64_t>(0, parts.columns - kWindowColumns)) {
    for (int lane = 0; lane < kWindowRows; ++lane) {
      next_[lane] = rows[lane] < 0 ? 0 : offsets[rows[lane]];
      end_[lane] = rows[lane] < 0 ? 0 : offsets[rows[lane] + 1];
    }
  }

  // Calls put(place among those of a stage, entry, column in the window) for each entry of the next stage, and returns
  // the first column of its window, or -1 where no row has entries left.
  template <class Put>
  int64_t stage(Put put) {
    int64_t first = -1;
    for (int lane = 0; lane < kWindowRows; ++lane)
      if (next_[lane] < end_[lane] && (first < 0 || column(lane) < first)) first = column(lane);
    if (first < 0) return -1;
    const int64_t window = std::min(first / kStep * kStep, last_);
    for (int lane = 0; lane < kWindowRows; ++lane)
      for (int step = 0; step < kWindowSteps && next_[lane] < end_[lane]; ++step, ++next_[lane]) {
        if (column(lane) >= window + kWindowColumns) break;
        put(step * kWindowRows + lane, next_[lane], column(lane) - window);
      }
    return window;
  }

 private:
  int64_t column(int lane) const { return static_cast<int64_t>(indices_[next_[lane]]); }

  const Index* indices_;
  int64_t last_;
  int64_t next_[kWindowRows], end_[kWindowRows];
};

}  // namespace

CsrWindows::CsrWindows(const CsrParts& parts, const std::vector<int64_t>& offsets, const std::vector<int32_t>& order) {
  if (parts.columns > kMostColumns) return;
  if (parts.wide_indices)
    arrange<int32_t>(parts, offsets, order);
  else
    arrange<uint16_t>(parts, offsets, order);
}

template <class Index>
void CsrWindows::arrange(const CsrParts& parts, const std::vector<int64_t>& offsets,
                         const std::vector<int32_t>& order) {
  stages_.assign(1, 0);
  for (std::size_t first = 0; first < order.size(); first += kWindowRows) {
    Walk<Index> walk(parts, offsets, order.data() + first);
    int64_t count = stages_.back();
    while (walk.stage([](int, int64_t, int64_t) {}) >= 0) ++count;
    stages_.push_back(count);
  }
  const std::size_t places = static_cast<std::size_t>(stages_.back()) * kWindowEntries;
  if (static_cast<double>(places) > kMostFill * static_cast<double>(parts.nnz)) return;
  values_ = Paged<float>(places);
  places_ = Paged<uint8_t>(places);
  columns_.reserve(places / kWindowEntries);
  for (std::size_t first = 0; first < order.size(); first += kWindowRows) {
    Walk<Index> walk(parts, offsets, order.data() + first);
    const auto put = [&](int place, int64_t entry, int64_t column) {
      const std::size_t at = columns_.size() * kWindowEntries + static_cast<std::size_t>(place);
      values_.data()[at] = parts.values[entry];
      places_.data()[at] = window_place(column);
    };
    for (int64_t window = walk.stage(put); window >= 0; window = walk.stage(put))
      columns_.push_back(static_cast<uint16_t>(window));
  }
}

}  // namespace sparsekit
