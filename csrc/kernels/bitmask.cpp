#include "kernels/bitmask.h"

#include <algorithm>

#include "core/pages.h"
#include "core/threads.h"
#include "kernels/bits.h"
#include "kernels/dispatch.h"
#include "kernels/offsets.h"
#include "kernels/padded.h"
#include "kernels/widened.h"

namespace sparsekit {

namespace {

// Groups per share are a multiple of this, so that two threads never write one cache line of y.
constexpr int64_t kGroupStep = 16;
constexpr int64_t kReadBeyond = 16;

}  // namespace

Bitmask::Bitmask(const Parts& parts)
    : rows_(parts.rows),
      columns_(parts.columns),
      words_(bits_words(parts.columns)),
      groups_((parts.rows + kBitmaskRows - 1) / kBitmaskRows),
      kernels_(&best_bitmask()),
      activations_(&best_activation()) {
  const std::vector<int64_t> offsets =
      checked_offsets("bitmask", parts.offsets, parts.wide_offsets, parts.rows, parts.nnz);
  check_bits("bitmask", parts.bits, offsets, columns_);
  bits_.assign(static_cast<std::size_t>(groups_ * words_ * kBitmaskRows), 0);
  group_offsets_.assign(static_cast<std::size_t>(groups_) + 1, 0);
  for (int64_t row = 0; row < rows_; ++row) {
    const int64_t n = row % groups_, r = row / groups_;
    for (int64_t g = 0; g < words_; ++g) bits_[(n * words_ + g) * kBitmaskRows + r] = parts.bits[row * words_ + g];
    group_offsets_[n + 1] += offsets[row + 1] - offsets[row];
  }
  for (int64_t n = 0; n < groups_; ++n) group_offsets_[n + 1] += group_offsets_[n];
  place_values(parts, offsets);
  prefer_huge_pages(parts.values, sizeof(float) * static_cast<std::size_t>(parts.nnz));
  prefer_huge_pages(bits_.data(), sizeof(uint16_t) * bits_.size());
}

// Rows so near the end of the values that reading beyond them would leave the buffer are read from a longer copy.
void Bitmask::place_values(const Parts& parts, const std::vector<int64_t>& offsets) {
  int64_t safe = rows_;
  while (safe > 0 && offsets[safe] + kReadBeyond > parts.nnz) --safe;
  tail_.assign(static_cast<std::size_t>(parts.nnz - offsets[safe] + kReadBeyond), 0.0f);
  if (parts.nnz > offsets[safe]) std::copy(parts.values + offsets[safe], parts.values + parts.nnz, tail_.begin());
  values_.assign(static_cast<std::size_t>(groups_ * kBitmaskRows), tail_.data());
  for (int64_t row = 0; row < rows_; ++row)
    values_[row] = row < safe ? parts.values + offsets[row] : tail_.data() + (offsets[row] - offsets[safe]);
}

void Bitmask::multiply(const Product& product) const {
  static thread_local Scratch scratch;
  const bool whole = columns_ % 16 == 0;
  const Product wide = whole ? product : padded(product, columns_, words_ * 16, scratch);
  const BitmaskView w = {rows_, groups_, words_, values_.data(), bits_.data()};
  // A word costs about as much to decode as four values to read.
  const int64_t group_cost = kBitmaskRows * (4 * words_ + 4);
  const int64_t work = (group_offsets_[groups_] + group_cost * groups_) * product.batch;
  parallel(work, (groups_ + kGroupStep - 1) / kGroupStep, [&](int part, int parts) {
    share_panels(group_offsets_, group_cost, kGroupStep, 1, part, parts, [&](int64_t, int64_t begin, int64_t end) {
      kernels_->multiply_groups(w, wide, begin, end);
      for (int64_t first = 0; first < groups_ * kBitmaskRows; first += groups_)  // a group's rows lie apart
        product.finish(*activations_, rows_, 0, product.batch, first + begin, std::min(first + end, rows_));
    });
  });
}

void Bitmask::multiply(const HalfProduct& product) const {
  multiply_widened(*this, rows_, columns_, *activations_, product);
}

}  // namespace sparsekit
