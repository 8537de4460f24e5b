#include "kernels/csr_rows.h"

#include <algorithm>
#include <numeric>
#include <utility>

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
constexpr int64_t kSorted = 128;
constexpr int64_t kSortedGroups = kSorted / kLockstepRows;
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
  if (kernels_->multiply_windows != nullptr) windows_ = CsrWindows(parts, offsets_, order_);
}

// Sorts the rows of each stretch by length, the longest first.
void CsrRows::order_rows() {
  order_.assign(static_cast<std::size_t>((parts_.rows + kSorted - 1) / kSorted * kSorted), -1);
  std::iota(order_.begin(), order_.begin() + parts_.rows, 0);
  const auto length = [this](int32_t row) { return offsets_[row + 1] - offsets_[row]; };
  for (int64_t first = 0; first < parts_.rows; first += kSorted)
    std::stable_sort(order_.begin() + first, order_.begin() + std::min(first + kSorted, parts_.rows),
                     [&](int32_t a, int32_t b) { return length(a) > length(b); });
}

const CsrRows::Lockstep& CsrRows::lockstep() const {
  std::call_once(once_, [this] {
    Lockstep made;
    made.offsets.assign(1, 0);
    for (std::size_t at = 0; at < order_.size(); at += kLockstepRows) {
      const int32_t longest = order_[at];
      made.offsets.push_back(made.offsets.back() + (longest < 0 ? 0 : offsets_[longest + 1] - offsets_[longest]));
    }
    const double places = static_cast<double>(made.offsets.back()) * kLockstepRows;
    const double most = (1 + kMostFill) * static_cast<double>(parts_.nnz) + kRowEnd * static_cast<double>(parts_.rows);
    const std::size_t entries = static_cast<std::size_t>(parts_.nnz);
    if (parts_.columns > kMostColumns || entries == 0 || places > most) {
      prefer_huge_pages(parts_.values, sizeof(float) * entries);
      prefer_huge_pages(parts_.indices, (parts_.wide_indices ? sizeof(int32_t) : sizeof(uint16_t)) * entries);
      return;
    }
    if (parts_.wide_indices)
      fill_steps<int32_t>(made);
    else
      fill_steps<uint16_t>(made);
    lockstep_ = std::move(made);
  });
  return lockstep_;
}

template <class Index>
void CsrRows::fill_steps(Lockstep& lockstep) const {
  const Index* indices = static_cast<const Index*>(parts_.indices);
  lockstep.steps = Paged<LockstepEntries>(static_cast<std::size_t>(lockstep.offsets.back()));
  for (std::size_t at = 0; at < order_.size(); ++at) {
    if (order_[at] < 0) continue;
    const std::size_t lane = at % kLockstepRows;
    LockstepEntries* to = lockstep.steps.data() + lockstep.offsets[at / kLockstepRows];
    for (int64_t p = offsets_[order_[at]]; p < offsets_[order_[at] + 1]; ++p, ++to) {
      to->values[lane] = parts_.values[p];
      to->columns[lane] = static_cast<uint16_t>(indices[p]);
    }
  }
}

void CsrRows::multiply(const Product& product) const {
  if (!windows_.empty() && product.batch <= kMostWindowTokens)
    multiply_windows(product);
  else if (const Lockstep& found = lockstep(); !found.empty())
    multiply_lockstep(found, product);
  else
    multiply_rows(product);
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

// Deals the groups of 16 rows to threads by cost, `offsets` before each group in units of `entries`, and finishes the
// rows that body(begin, end) has multiplied.
template <class Body>
void CsrRows::share_groups(const std::vector<int64_t>& offsets, int64_t entries, const Product& product,
                           Body body) const {
  const int64_t stretches = static_cast<int64_t>(order_.size()) / kSorted;
  const int64_t work = (offsets.back() * entries + kRowCost * parts_.rows) * product.batch;
  parallel(work, stretches, [&](int part, int parts) {
    share_panels(offsets, kRowCost, kSortedGroups, 1, part, parts, [&](int64_t, int64_t begin, int64_t end) {
      body(begin, end);
      product.finish(*activations_, parts_.rows, 0, product.batch, begin * kLockstepRows,
                     std::min(end * kLockstepRows, parts_.rows));
    });
  });
}

void CsrRows::multiply_lockstep(const Lockstep& lockstep, const Product& product) const {
  static thread_local Scratch scratch;
  const LockstepView w = {parts_.rows, parts_.columns, lockstep.offsets.data(), order_.data(), lockstep.steps.data()};
  const float* x = product.batch == 1 ? nullptr : by_fours(product, parts_.columns, scratch);
  share_groups(lockstep.offsets, kLockstepRows, product, [&](int64_t begin, int64_t end) {
    if (x == nullptr)
      kernels_->multiply_groups(w, product, begin, end);
    else
      kernels_->multiply_groups_by_fours(w, product, x, begin, end);
  });
}

void CsrRows::multiply_windows(const Product& product) const {
  static thread_local Scratch scratch;
  Product wide = product;
  if (parts_.columns < kWindowColumns) {  // a window reads as many
    float* x = scratch.floats(static_cast<std::size_t>(product.batch * kWindowColumns));
    for (int64_t m = 0; m < product.batch; ++m) {
      std::copy_n(product.x + m * product.x_stride, parts_.columns, x + m * kWindowColumns);
      std::fill_n(x + m * kWindowColumns + parts_.columns, kWindowColumns - parts_.columns, 0.0f);
    }
    wide.x = x;
    wide.x_stride = kWindowColumns;
  }
  const WindowView w = windows_.view(parts_.rows, order_);
  share_groups(windows_.stages(), kWindowEntries, product,
               [&](int64_t begin, int64_t end) { kernels_->multiply_windows(w, wide, begin, end); });
}

void CsrRows::multiply(const HalfProduct& product) const {
  multiply_widened(*this, parts_.rows, parts_.columns, *activations_, product);
}

}  // namespace sparsekit
