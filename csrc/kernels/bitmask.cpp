#include "kernels/bitmask.h"

#include <algorithm>

#include "core/check.h"
#include "core/threads.h"
#include "kernels/dispatch.h"
#include "kernels/offsets.h"

namespace sparsekit {

namespace {

int64_t count_bits(const uint16_t* words, int64_t count) {
  int64_t bits = 0;
  for (int64_t g = 0; g < count; ++g) bits += __builtin_popcount(words[g]);
  return bits;
}

// Calls body(column) for the columns whose bits are set, in order.
template <class Body>
void for_each_bit(const uint16_t* words, int64_t count, Body body) {
  for (int64_t g = 0; g < count; ++g)
    for (unsigned bits = words[g]; bits != 0; bits &= bits - 1) body(16 * g + __builtin_ctz(bits));
}

}  // namespace

Bitmask::Bitmask(const Parts& parts)
    : rows_(parts.rows),
      columns_(parts.columns),
      words_((parts.columns + kBitmaskColumns - 1) / kBitmaskColumns * kBitmaskColumns),
      groups_((parts.rows + kBitmaskRows - 1) / kBitmaskRows),
      kernels_(&best_bitmask()),
      activations_(&best_activation()) {
  const std::vector<int64_t> offsets =
      checked_offsets("bitmask", parts.offsets, parts.wide_offsets, parts.rows, parts.nnz);
  check_bits(parts, offsets);
  for (int64_t n = 0; n <= groups_; ++n) group_offsets_.push_back(offsets[std::min(n * kBitmaskRows, rows_)]);
  bits_ = Paged<uint16_t>(static_cast<std::size_t>(groups_ * words_));
  values_ = Paged<float>(static_cast<std::size_t>(parts.nnz + kBitmaskRows));
  fill(parts);
}

void Bitmask::check_bits(const Parts& parts, const std::vector<int64_t>& offsets) const {
  const int64_t words = (parts.columns + 15) / 16, spare = words * 16 - parts.columns;
  for (int64_t n = 0; n < parts.rows; ++n) {
    const uint16_t* row = parts.bits + n * words;
    const int64_t stored = offsets[n + 1] - offsets[n], marked = count_bits(row, words);
    if (marked != stored)
      check(false, "bitmask: row " + std::to_string(n) + ": expected as many bits as the offsets say, " +
                       std::to_string(stored) + ", got " + std::to_string(marked));
    if (spare != 0 && row[words - 1] >> (16 - spare) != 0)
      check(false, "bitmask: row " + std::to_string(n) + ": expected no bits beyond the last column, " +
                       std::to_string(columns_ - 1) + ", got some");
  }
}

// Turns the bits over: a word of 16 columns of a row becomes a bit in each of 16 words of a group. A kept weight's
// place follows from the bits of the columns before its own and of the rows above, so the words come first.
void Bitmask::fill(const Parts& parts) {
  const int64_t packed = (columns_ + 15) / 16;
  for (int64_t row = 0; row < rows_; ++row) {
    uint16_t* words = bits_.data() + row / kBitmaskRows * words_;
    for_each_bit(parts.bits + row * packed, packed,
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
    for_each_bit(parts.bits + row * packed, packed, [&](int64_t k) { values_.data()[next[k]++] = *from++; });
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

}  // namespace sparsekit
