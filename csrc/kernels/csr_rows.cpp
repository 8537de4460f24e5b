#include "kernels/csr_rows.h"

#include <algorithm>
#include <numeric>

#include "core/pages.h"
#include "core/scratch.h"
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
// Most columns that an index of a step counts.
constexpr int64_t kMostColumns = 1 << 16;
// Fill that lockstep may add, at most: a share of the entries, and as many as the end of a row costs otherwise.
constexpr double kMostFill = 0.06;
constexpr double kRowEnd = 8;

// Activations as CsrRowsKernels::multiply_groups_by_fours takes them, with zeros for the tokens that a four lacks.
const float* by_fours(const Product& product, int64_t columns, Scratch& scratch) {
  const int64_t tokens = (product.batch + kLockstepTokens - 1) / kLockstepTokens * kLockstepTokens;
  float* x = scratch.floats(static_cast<std::size_t>(tokens * columns));
  for (int64_t m = 0; m < tokens; ++m) {
    float* to = x + m / kLockstepTokens * kLockstepTokens * columns + m % kLockstepTokens;
    for (int64_t k = 0; k < columns; ++k)
      to[k * kLockstepTokens] = m < product.batch ? product.x[m * product.x_stride + k] : 0.0f;
  }
  return x;
}

}  // namespace

CsrRows::CsrRows(const CsrParts& parts)
    : parts_(parts), kernels_(&best_csr_rows()), activations_(&best_activation()), offsets_(checked_csr(parts)) {
  order_rows();
  if (worth_lockstep()) {
    if (parts.wide_indices)
      fill_groups<int32_t>();
    else
      fill_groups<uint16_t>();
    return;
  }
  order_.clear();
  const std::size_t entries = static_cast<std::size_t>(parts.nnz);
  prefer_huge_pages(parts.values, sizeof(float) * entries);
  prefer_huge_pages(parts.indices, (parts.wide_indices ? sizeof(int32_t) : sizeof(uint16_t)) * entries);
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

bool CsrRows::worth_lockstep() const {
  const double places = static_cast<double>(group_offsets_.back()) * kLockstepRows;
  const double most = (1 + kMostFill) * static_cast<double>(parts_.nnz) + kRowEnd * static_cast<double>(parts_.rows);
  return parts_.columns <= kMostColumns && parts_.nnz > 0 && places <= most;
}

template <class Index>
void CsrRows::fill_groups() {
  const Index* indices = static_cast<const Index*>(parts_.indices);
  steps_ = Paged<LockstepEntries>(static_cast<std::size_t>(group_offsets_.back()));
  for (std::size_t at = 0; at < order_.size(); ++at) {
    if (order_[at] < 0) continue;
    const std::size_t lane = at % kLockstepRows;
    LockstepEntries* to = steps_.data() + group_offsets_[at / kLockstepRows];
    for (int64_t p = offsets_[order_[at]]; p < offsets_[order_[at] + 1]; ++p, ++to) {
      to->values[lane] = parts_.values[p];
      to->columns[lane] = static_cast<uint16_t>(indices[p]);
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
  static thread_local Scratch scratch;
  const LockstepView w = {parts_.rows, parts_.columns, group_offsets_.data(), order_.data(), steps_.data()};
  const float* x = product.batch == 1 ? nullptr : by_fours(product, parts_.columns, scratch);
  const int64_t windows = static_cast<int64_t>(order_.size()) / kWindow;
  const int64_t work = (group_offsets_.back() * kLockstepRows + kRowCost * parts_.rows) * product.batch;
  parallel(work, windows, [&](int part, int parts) {
    share_panels(group_offsets_, kRowCost, kWindowGroups, 1, part, parts, [&](int64_t, int64_t begin, int64_t end) {
      if (x == nullptr)
        kernels_->multiply_groups(w, product, begin, end);
      else
        kernels_->multiply_groups_by_fours(w, product, x, begin, end);
      product.finish(*activations_, parts_.rows, 0, product.batch, begin * kLockstepRows,
                     std::min(end * kLockstepRows, parts_.rows));
    });
  });
}

void CsrRows::multiply(const HalfProduct& product) const {
  multiply_widened(*this, parts_.rows, parts_.columns, *activations_, product);
}

}  // namespace sparsekit
