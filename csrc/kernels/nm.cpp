#include "kernels/nm.h"

#include <algorithm>
#include <string>

#include "core/check.h"
#include "core/pages.h"
#include "core/threads.h"
#include "kernels/dispatch.h"
#include "kernels/padded.h"
#include "kernels/widened.h"

namespace sparsekit {

namespace {

// Two threads never write one cache line of y.
constexpr int64_t kGroupStep = 16 / kNmRows;
constexpr int64_t kMostReach = 64;

int position_bits(int64_t m) {
  int bits = 0;
  while ((int64_t{1} << bits) < m) ++bits;
  return bits;
}

// Field `i` of `bits` bits, the lowest first.
int64_t field(const uint8_t* bytes, int64_t i, int bits) {
  int64_t value = 0;
  for (int b = 0; b < bits; ++b) {
    const int64_t at = i * bits + b;
    value |= static_cast<int64_t>(bytes[at / 8] >> (at % 8) & 1) << b;
  }
  return value;
}

int64_t bytes_per_piece(bool short_indices) { return short_indices ? kNmLanes / 4 : kNmLanes; }

}  // namespace

int64_t nm_reach(int64_t n, int64_t m) {
  int64_t most = 0;
  for (int64_t c = 0; c < n; ++c)  // the groups of a piece depend on where in a group it starts
    most = std::max(most, (c * kNmLanes + kNmLanes - 1) / n - c * kNmLanes / n + 1);
  return most * m;
}

int64_t nm_position_bytes(int64_t kept, int64_t m) { return (kept * position_bits(m) + 7) / 8; }

Nm::Nm(const Parts& parts)
    : rows_(parts.rows), columns_(parts.columns), kernels_(&best_nm()), activations_(&best_activation()) {
  check(1 <= parts.n && parts.n <= parts.m && nm_reach(parts.n, parts.m) <= kMostReach,
        "nm: expected n of m whose " + std::to_string(kNmLanes) + " consecutive weights lie within " +
            std::to_string(kMostReach) + " columns, got " + std::to_string(parts.n) + " of " + std::to_string(parts.m));
  kept_ = parts.columns / parts.m * parts.n;
  pieces_ = (kept_ + kNmLanes - 1) / kNmLanes;
  reach_ = nm_reach(parts.n, parts.m) <= 32 ? 32 : 64;
  short_indices_ = parts.m <= 4 && kNmLanes % parts.n == 0;
  tail_columns_ = parts.columns % parts.m;
  tail_.assign(parts.tail, parts.tail + rows_ * tail_columns_);
  place_pieces(parts);
  fill(parts);
}

void Nm::place_pieces(const Parts& parts) {
  for (int64_t c = 0; c < pieces_; ++c) starts_.push_back(c * kNmLanes / parts.n * parts.m);
  for (int64_t i = 0; short_indices_ && i < kNmLanes; ++i)
    bases_.push_back(static_cast<uint8_t>(i / parts.n * parts.m));
}

void Nm::fill(const Parts& parts) {
  const int64_t places = (rows_ + kNmRows - 1) / kNmRows * pieces_ * kNmRows;
  const std::size_t values = static_cast<std::size_t>(places * kNmLanes);
  const std::size_t indices = static_cast<std::size_t>(places * bytes_per_piece(short_indices_));
  values_ = Paged<float>(values);
  indices_ = Paged<uint8_t>(indices);
  for (int64_t row = 0; row < rows_; ++row) fill_row(parts, row);
}

void Nm::fill_row(const Parts& parts, int64_t row) {
  const int bits = position_bits(parts.m);
  const uint8_t* positions = parts.positions + row * nm_position_bytes(kept_, parts.m);
  int64_t before = -1;
  const int64_t wide = bytes_per_piece(short_indices_);
  for (int64_t i = 0; i < kept_; ++i) {
    const int64_t position = field(positions, i, bits), piece = i / kNmLanes, lane = i % kNmLanes;
    if (i % parts.n == 0) before = -1;
    if (position <= before || position >= parts.m)
      check(false, "nm: row " + std::to_string(row) + ": expected positions that ascend in a group and lie below " +
                       std::to_string(parts.m) + ", got " + std::to_string(position));
    before = position;
    const int64_t place = (row / kNmRows * pieces_ + piece) * kNmRows + row % kNmRows;
    values_.data()[place * kNmLanes + lane] = parts.values[row * kept_ + i];
    uint8_t* indices = indices_.data() + place * wide;
    if (short_indices_)
      indices[lane / 4] = static_cast<uint8_t>(indices[lane / 4] | position << (lane % 4 * 2));
    else
      indices[lane] = static_cast<uint8_t>(i / parts.n * parts.m + position - starts_[piece]);
  }
}

void Nm::multiply(const Product& product) const {
  static thread_local Scratch scratch;
  const int64_t wide = pieces_ == 0 ? 0 : starts_.back() + reach_;
  const Product whole = wide <= columns_ ? product : padded(product, columns_, wide, scratch);
  const NmView w = {rows_,          pieces_,        reach_,          short_indices_, bases_.data(),
                    starts_.data(), values_.data(), indices_.data(), tail_.data(),   columns_ - tail_columns_,
                    tail_columns_};
  const int64_t groups = (rows_ + kNmRows - 1) / kNmRows;
  const int64_t steps = (groups + kGroupStep - 1) / kGroupStep;
  parallel(rows_ * (kept_ + tail_columns_ + 4) * product.batch, steps, [&](int part, int parts) {
    const int64_t begin = steps * part / parts * kGroupStep;
    const int64_t end = std::min(groups, steps * (part + 1) / parts * kGroupStep);
    kernels_->multiply_groups(w, whole, begin, end);
    product.finish(*activations_, rows_, 0, product.batch, begin * kNmRows, std::min(end * kNmRows, rows_));
  });
}

void Nm::multiply(const HalfProduct& product) const {
  multiply_widened(*this, rows_, columns_, *activations_, product);
}

}  // namespace sparsekit
