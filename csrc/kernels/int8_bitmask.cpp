#include "kernels/int8_bitmask.h"

#include <algorithm>

#include "core/check.h"
#include "core/pages.h"
#include "core/scratch.h"
#include "core/threads.h"
#include "kernels/bits.h"
#include "kernels/dispatch.h"
#include "kernels/int8_block_csr.h"
#include "kernels/offsets.h"

namespace sparsekit {

namespace {

// Groups per share are a multiple of this, so that two threads never write one cache line of y.
constexpr int64_t kGroupStep = 16;

}  // namespace

Int8Bitmask::Int8Bitmask(const Parts& parts)
    : rows_(parts.rows),
      columns_(parts.columns),
      words_((parts.columns + kInt8Word - 1) / kInt8Word),
      groups_((parts.rows + kInt8Rows - 1) / kInt8Rows),
      kernels_(&best_int8_bitmask()),
      activations_(&best_activation()) {
  check_int8_sizes(rows_, columns_);
  check_int8_scales(parts.scales, rows_);
  const std::vector<int64_t> offsets =
      checked_offsets("int8_bitmask", parts.offsets, parts.wide_offsets, parts.rows, parts.nnz);
  check_int8_values(parts.values, parts.nnz);
  check_bits("int8_bitmask", parts.bits, offsets, columns_);
  const std::size_t words = static_cast<std::size_t>(groups_ * words_ * kInt8Rows);
  const std::size_t bytes = sizeof(uint64_t) * words + static_cast<std::size_t>(parts.nnz + kInt8Word);
  weight_ = Paged<uint64_t>(bytes / sizeof(uint64_t) + 1);
  bits_ = weight_.data();
  values_ = reinterpret_cast<int8_t*>(bits_ + words);
  place_bits(parts);
  place_values(parts, offsets);
}

void Int8Bitmask::place_bits(const Parts& parts) {
  const int64_t stored = bits_words(columns_);
  for (int64_t row = 0; row < rows_; ++row) {
    const uint16_t* from = parts.bits + row * stored;
    uint64_t* to = bits_ + row / kInt8Rows * words_ * kInt8Rows + row % kInt8Rows;
    for (int64_t g = 0; g < stored; ++g)
      to[g / 4 * kInt8Rows] |= static_cast<uint64_t>(from[g]) << (kBitsWord * (g % 4));
  }
}

void Int8Bitmask::place_values(const Parts& parts, const std::vector<int64_t>& offsets) {
  scales_.assign(static_cast<std::size_t>(groups_ * kInt8Rows), 0.0f);
  starts_.assign(scales_.size(), 0);
  int8_t* to = values_;
  for (int64_t n = 0; n < groups_; ++n) {
    const int64_t first = n * kInt8Rows, inside = std::min<int64_t>(kInt8Rows, rows_ - first);
    offsets_.push_back(offsets[first]);
    const int8_t* from[kInt8Rows];
    for (int64_t r = 0; r < inside; ++r) from[r] = parts.values + offsets[first + r];
    const uint64_t* bits = bits_ + n * words_ * kInt8Rows;
    for (int64_t g = 0; g < words_; ++g, bits += kInt8Rows)
      for (int64_t r = 0; r < inside; ++r)
        for (int64_t left = __builtin_popcountll(bits[r]); left > 0; --left) {
          starts_[first + r] -= kernels_->offset * *from[r];
          *to++ = *from[r]++;
        }
    std::copy(parts.scales + first, parts.scales + first + inside, scales_.data() + first);
  }
  offsets_.push_back(parts.nnz);
}

void Int8Bitmask::multiply(const Product& product) const {
  check(product.batch <= kInt8MostTokens, "int8_bitmask: expected at most 4 tokens");
  if (product.batch == 0) return;
  static thread_local Scratch scratch;
  const int64_t padded = words_ * kInt8Word;
  uint8_t* x = reinterpret_cast<uint8_t*>(scratch.floats(static_cast<std::size_t>(padded * product.batch / 4)));
  float steps[kInt8MostTokens];
  kernels_->quantize(product, columns_, padded, x, steps);
  const Int8BitmaskView w = {rows_, words_, values_, offsets_.data(), bits_, scales_.data(), starts_.data()};
  // A word costs about as much to decode as its bits and some values to read.
  const int64_t group_cost = kInt8Rows * (16 * words_ + 4);
  const int64_t work = (offsets_[groups_] + group_cost * groups_) * product.batch;
  parallel(work, (groups_ + kGroupStep - 1) / kGroupStep, [&](int part, int parts) {
    share_panels(offsets_, group_cost, kGroupStep, 1, part, parts, [&](int64_t, int64_t begin, int64_t end) {
      kernels_->multiply(w, product, {x, steps}, begin, end);
      product.finish(*activations_, rows_, 0, product.batch, begin * kInt8Rows, std::min(end * kInt8Rows, rows_));
    });
  });
}

}  // namespace sparsekit
