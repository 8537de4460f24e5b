#include "kernels/bitmask.h"

#include <algorithm>

#include "core/threads.h"
#include "kernels/bits.h"
#include "kernels/dispatch.h"
#include "kernels/offsets.h"
#include "kernels/widened.h"

namespace sparsekit {

Bitmask::Bitmask(const Parts& parts)
    : rows_(parts.rows),
      columns_(parts.columns),
      words_((parts.columns + kBitmaskColumns - 1) / kBitmaskColumns * kBitmaskColumns),
      groups_((parts.rows + kBitmaskRows - 1) / kBitmaskRows),
      kernels_(&best_bitmask()),
      activations_(&best_activation()) {
  const std::vector<int64_t> offsets =
      checked_offsets("bitmask", parts.offsets, parts.wide_offsets, parts.rows, parts.nnz);
  check_bits("bitmask", parts.bits, offsets, columns_);
  for (int64_t n = 0; n <= groups_; ++n) group_offsets_.push_back(offsets[std::min(n * kBitmaskRows, rows_)]);
  bits_ = Paged<uint16_t>(static_cast<std::size_t>(groups_ * words_));
  values_ = Paged<float>(static_cast<std::size_t>(parts.nnz + kBitmaskRows));
  fill(parts);
}

// Turns the bits over: a word of 16 columns of a row becomes a bit in each of 16 words of a group. A kept weight's
// place follows from the bits of the columns before its own and of the rows above, so the words come first.
void Bitmask::fill(const Parts& parts) {
  const int64_t packed = bits_words(columns_);
  for (int64_t row = 0; row < rows_; ++row) {
    uint16_t* words = bits_.data() + row / kBitmaskRows * words_;
    for_bits(parts.bits + row * packed, packed,
             [&](int64_t k) { words[k] = static_cast<uint16_t>(words[k] | 1u << row % kBitmaskRows); });
  }
  std::vector<int64_t> next(static_cast<std::size_t>(columns_));  // where the next weight of each column goes
  const float* from = parts.values;
  for (int64_t row = 0; row < rows_; ++row) {
    if (row % kBitmaskRows == 0) {
      const uint16_t* words = bits_.data() + row / kBitmaskRows * words_;
      int64_t place = group_offsets_[row / kBitmaskRows];
      for (int64_t k = 0; k < columns_; ++k) {
        next[k] = place;
        place += __builtin_popcount(words[k]);
      }
    }
    for_bits(parts.bits + row * packed, packed, [&](int64_t k) { values_.data()[next[k]++] = *from++; });
  }
}

void Bitmask::multiply(const Product& product) const {
  const BitmaskView w = {rows_, columns_, words_, bits_.data(), values_.data(), group_offsets_.data()};
  // A word costs about as much to decode as four values to read.
  const int64_t group_cost = 4 * words_ + kBitmaskRows;
  const int64_t work = (group_offsets_[groups_] + group_cost * groups_) * product.batch;
  parallel(work, groups_, [&](int part, int parts) {
    share_panels(group_offsets_, group_cost, 1, 1, part, parts, [&](int64_t, int64_t begin, int64_t end) {
      kernels_->multiply_groups(w, product, begin, end);
      product.finish(*activations_, rows_, 0, product.batch, begin * kBitmaskRows, std::min(end * kBitmaskRows, rows_));
    });
  });
}

void Bitmask::multiply(const HalfProduct& product) const {
  multiply_widened(*this, rows_, columns_, *activations_, product);
}

}  // namespace sparsekit
