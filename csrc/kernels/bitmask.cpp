#include "kernels/bitmask.h"

#include <cstring>

#include "core/check.h"
#include "core/threads.h"
#include "kernels/dispatch.h"
#include "kernels/offsets.h"

namespace sparsekit {

namespace {

// Rows decoded side by side share what they read of x.
constexpr int64_t kRowStep = 16;

int64_t bits_of_row(const uint16_t* words, int64_t count) {
  int64_t bits = 0;
  for (int64_t g = 0; g < count; ++g) bits += __builtin_popcount(words[g]);
  return bits;
}

}  // namespace

Bitmask::Bitmask(const Parts& parts) : parts_(parts), kernels_(&best_bitmask()), words_((parts.columns + 15) / 16) {
  offsets_ = checked_offsets("bitmask", parts.offsets, parts.wide_offsets, parts.rows, parts.nnz);
  const int64_t spare = words_ * 16 - parts.columns;
  for (int64_t n = 0; n < parts.rows; ++n) {
    const uint16_t* row = parts.bits + n * words_;
    check(bits_of_row(row, words_) == offsets_[n + 1] - offsets_[n],
          "bitmask: row " + std::to_string(n) + ": expected as many bits as the offsets say");
    check(spare == 0 || row[words_ - 1] >> (16 - spare) == 0,
          "bitmask: row " + std::to_string(n) + ": expected no bits beyond the last column");
  }
  safe_rows_ = parts.rows;
  while (safe_rows_ > 0 && offsets_[safe_rows_] + kSpareValues > parts.nnz) --safe_rows_;
  tail_.assign(static_cast<std::size_t>(parts.nnz - offsets_[safe_rows_] + kSpareValues), 0.0f);
  if (parts.nnz > offsets_[safe_rows_])
    std::memcpy(tail_.data(), parts.values + offsets_[safe_rows_],
                sizeof(float) * static_cast<std::size_t>(parts.nnz - offsets_[safe_rows_]));
}

void Bitmask::multiply(const Product& product) const {
  static thread_local Scratch scratch;
  Product padded = product;
  if (parts_.columns % 16 != 0 && product.batch > 0) {
    padded.x_stride = words_ * 16;
    float* x = scratch.floats(static_cast<std::size_t>(padded.x_stride * product.batch));
    std::memset(x, 0, sizeof(float) * static_cast<std::size_t>(padded.x_stride * product.batch));
    for (int64_t m = 0; m < product.batch; ++m)
      std::memcpy(x + m * padded.x_stride, product.x + m * product.x_stride,
                  sizeof(float) * static_cast<std::size_t>(parts_.columns));
    padded.x = x;
  }
  // A word costs about as much to decode as four values to read.
  const int64_t row_cost = 4 * words_ + 4;
  const BitmaskView body = {parts_.rows, words_, parts_.values, 0, parts_.bits, offsets_.data()};
  const BitmaskView tail = {parts_.rows, words_, tail_.data(), offsets_[safe_rows_], parts_.bits, offsets_.data()};
  const int64_t steps = (parts_.rows + kRowStep - 1) / kRowStep;
  parallel((parts_.nnz + row_cost * parts_.rows) * product.batch, steps, [&](int part, int parts) {
    share_panels(offsets_, row_cost, kRowStep, 1, part, parts, [&](int64_t, int64_t begin, int64_t end) {
      if (begin < safe_rows_) kernels_->multiply_rows(body, padded, begin, end < safe_rows_ ? end : safe_rows_);
      if (end > safe_rows_) kernels_->multiply_rows(tail, padded, begin > safe_rows_ ? begin : safe_rows_, end);
    });
  });
}

}  // namespace sparsekit
