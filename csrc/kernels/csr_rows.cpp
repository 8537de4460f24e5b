#include "kernels/csr_rows.h"

#include <algorithm>
#include <numeric>

#include "core/pages.h"
#include "core/threads.h"
#include "kernels/dispatch.h"
#include "kernels/offsets.h"
#include "kernels/widened.h"

namespace sparsekit {

namespace {

// Work of a row beside its entries, in entries: loop set-up and the store of its sums.
constexpr int64_t kRowCost = 4;
// Rows per share are a multiple of this, so that two threads never write one cache line of y.
constexpr int64_t kRowStep = 16;
// Rows that are sorted by length among themselves: enough for groups of nearly one length, few enough to share out.
constexpr int64_t kWindow = 128;
constexpr int64_t kWindowGroups = kWindow / kLockstepRows;
// Entries per column and row from which lockstep wins: below, so much weight passes between two uses of an activation
// that it has left the first-level cache.
constexpr double kLeastDensity = 0.13;
// Fill that may be added to the entries, at most.
constexpr double kMostFill = 0.06;

}  // namespace

CsrRows::CsrRows(const CsrParts& parts)
    : parts_(parts), kernels_(&best_csr_rows()), activations_(&best_activation()), offsets_(checked_csr(parts)) {
  if (worth_lockstep()) {
    order_rows();
    const double steps = static_cast<double>(group_offsets_.back() * kLockstepRows);
    if (steps <= (1 + kMostFill) * static_cast<double>(parts.nnz)) {
      if (parts.wide_indices)
        fill_groups<int32_t>();
      else
        fill_groups<uint16_t>();
      return;
    }
    order_.clear();
  }
  const std::size_t entries = static_cast<std::size_t>(parts.nnz);
  prefer_huge_pages(parts.values, sizeof(float) * entries);
  prefer_huge_pages(parts.indices, (parts.wide_indices ? sizeof(int32_t) : sizeof(uint16_t)) * entries);
}

bool CsrRows::worth_lockstep() const {
  constexpr int64_t kMostColumns = 1 << 16;
  const double cells = static_cast<double>(parts_.rows) * static_cast<double>(parts_.columns);
  return parts_.columns <= kMostColumns && parts_.nnz > 0 && static_cast<double>(parts_.nnz) >= kLeastDensity * cells;
}

// Sorts the rows of each window by length, the longest first, and counts the steps of their groups.
void CsrRows::order_rows() {
  const int64_t windows = (parts_.rows + kWindow - 1) / kWindow;
  order_.assign(static_cast<std::size_t>(windows * kWindow), -1);
  std::iota(order_.begin(), order_.begin() + parts_.rows, 0);
  const auto length = [this](int32_t row) { return offsets_[row + 1] - offsets_[row]; };
  group_offsets_.assign(1, 0);
  for (int64_t first = 0; first < parts_.rows; first += kWindow) {
    const auto from = order_.begin() + first, to = order_.begin() + std::min(first + kWindow, parts_.rows);
    std::stable_sort(from, to, [&](int32_t a, int32_t b) { return length(a) > length(b); });
    for (int64_t at = first; at < first + kWindow; at += kLockstepRows)
      group_offsets_.push_back(group_offsets_.back() + (order_[at] < 0 ? 0 : length(order_[at])));
  }
}

template <class Index>
void CsrRows::fill_groups() {
  const Index* indices = static_cast<const Index*>(parts_.indices);
  const std::size_t places = static_cast<std::size_t>(group_offsets_.back() * kLockstepRows);
  values_ = Aligned<float>(places);
  indices_ = Aligned<uint16_t>(places);
  prefer_huge_pages(values_.data(), sizeof(float) * places);
  prefer_huge_pages(indices_.data(), sizeof(uint16_t) * places);
  for (std::size_t at = 0; at < order_.size(); ++at) {
    if (order_[at] < 0) continue;
    const std::size_t group = at / kLockstepRows, lane = at % kLockstepRows;
    int64_t to = group_offsets_[group] * kLockstepRows + static_cast<int64_t>(lane);
    for (int64_t p = offsets_[order_[at]]; p < offsets_[order_[at] + 1]; ++p, to += kLockstepRows) {
      values_.data()[to] = parts_.values[p];
      indices_.data()[to] = static_cast<uint16_t>(indices[p]);
    }
  }
}

void CsrRows::multiply(const Product& product) const {
  if (order_.empty())
    multiply_rows(product);
  else
    multiply_groups(product);
}

void CsrRows::multiply_rows(const Product& product) const {
  const CsrView w = {parts_.rows, parts_.values, parts_.indices, parts_.wide_indices, offsets_.data()};
  const int64_t steps = (parts_.rows + kRowStep - 1) / kRowStep;
  parallel((parts_.nnz + kRowCost * parts_.rows) * product.batch, steps, [&](int part, int parts) {
    share_panels(offsets_, kRowCost, kRowStep, 1, part, parts, [&](int64_t, int64_t begin, int64_t end) {
      kernels_->multiply_rows(w, product, begin, end);
      product.finish(*activations_, parts_.rows, 0, product.batch, begin, end);
    });
  });
}

void CsrRows::multiply_groups(const Product& product) const {
  const LockstepView w = {parts_.rows, group_offsets_.data(), order_.data(), values_.data(), indices_.data()};
  const int64_t windows = static_cast<int64_t>(order_.size()) / kWindow;
  const int64_t work = (group_offsets_.back() * kLockstepRows + kRowCost * parts_.rows) * product.batch;
  parallel(work, windows, [&](int part, int parts) {
    share_panels(group_offsets_, kRowCost, kWindowGroups, 1, part, parts, [&](int64_t, int64_t begin, int64_t end) {
      kernels_->multiply_groups(w, product, begin, end);
      product.finish(*activations_, parts_.rows, 0, product.batch, begin * kLockstepRows,
                     std::min(end * kLockstepRows, parts_.rows));
    });
  });
}

void CsrRows::multiply(const HalfProduct& product) const {
  multiply_widened(*this, parts_.rows, parts_.columns, *activations_, product);
}

}  // namespace sparsekit
