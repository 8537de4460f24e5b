#include "kernels/bitmask_half.h"

#include <algorithm>
#include <utility>

#include "core/pages.h"
#include "core/scratch.h"
#include "core/threads.h"
#include "kernels/bits.h"
#include "kernels/dispatch.h"
#include "kernels/offsets.h"

namespace sparsekit {

namespace {

constexpr int64_t kReadBeyond = 32;
// Strips whose sums are finished together: a call for each token is shared by them.
constexpr int64_t kTogether = 8;
// Strips per share are a multiple of this, so that two threads never write one cache line of y.
constexpr int64_t kStripStep = 2;
// A word costs about as much to decode as so many values to read.
constexpr int64_t kWordCost = 32;

}  // namespace

BitmaskHalf::BitmaskHalf(const Parts& parts)
    : rows_(parts.rows),
      columns_(parts.columns),
      words_((parts.columns + 1) / 2),
      strips_((parts.rows + kHalfStrip - 1) / kHalfStrip),
      kernels_(&best_bitmask_half()),
      packing_(&best_block_half(Isa::avx512bf16)),
      activations_(&best_activation()) {
  const std::vector<int64_t> offsets =
      checked_offsets("bitmask", parts.offsets, parts.wide_offsets, parts.rows, parts.nnz);
  check_bits("bitmask", parts.bits, offsets, columns_);
  fill(parts, offsets);
}

void BitmaskHalf::fill(const Parts& parts, const std::vector<int64_t>& offsets) {
  bits_ = Paged<uint32_t>(static_cast<std::size_t>(strips_ * words_));
  values_ = Paged<uint16_t>(static_cast<std::size_t>(parts.nnz + kReadBeyond));
  for (int64_t first = 0; first < rows_; first += kHalfStrip) {
    offsets_.push_back(offsets[first]);
    fill_strip(parts, offsets, first);
  }
  offsets_.push_back(parts.nnz);
}

void BitmaskHalf::fill_strip(const Parts& parts, const std::vector<int64_t>& offsets, int64_t first) {
  const int64_t stored = bits_words(columns_), last = std::min(first + kHalfStrip, rows_);
  const bool by_input = kernels_->order == HalfOrder::by_input;
  uint32_t* words = bits_.data() + first / kHalfStrip * words_;
  std::vector<int64_t> places(static_cast<std::size_t>(2 * words_) + 1);  // values of each input, then where they go
  for (int64_t row = first; row < last; ++row)
    for_bits(parts.bits + row * stored, stored, [&](int64_t k) {
      const int64_t lane = row - first;
      words[k / 2] |= uint32_t{1} << (by_input ? lane + kHalfStrip * (k % 2) : 2 * lane + k % 2);
      ++places[by_input ? k : k / 2];
    });
  int64_t before = 0;
  for (int64_t& place : places) before += std::exchange(place, before);
  uint16_t* values = values_.data() + offsets[first];
  for (int64_t row = first; row < last; ++row) {
    const uint16_t* from = parts.values + offsets[row];
    for_bits(parts.bits + row * stored, stored, [&](int64_t k) { values[places[by_input ? k : k / 2]++] = *from++; });
  }
}

void BitmaskHalf::multiply(const HalfProduct& product) const {
  const int64_t room = std::min(kernels_->tokens, packing_->sums);
  const Panels panels = {product.batch, (product.batch + room - 1) / room};
  const int64_t strip_cost = kWordCost * words_ + kHalfStrip;
  const int64_t work = (offsets_[strips_] + strip_cost * strips_) * product.batch;
  parallel(work, (strips_ + kStripStep - 1) / kStripStep, [&](int part, int parts) {
    static thread_local Scratch scratch;
    const int64_t sums = room * kTogether * kHalfStrip;
    float* memory = scratch.floats(static_cast<std::size_t>(sums + product.batch * words_ + packing_->width));
    for (int64_t i = 0; i < panels.count; ++i)
      packing_->pack(product, columns_, panels.at(i), panels.at(i + 1) - panels.at(i),
                     memory + sums + panels.at(i) * words_);
    share_panels(offsets_, strip_cost, kStripStep, 1, part, parts, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t strip = begin; strip < end; strip += kTogether)
        multiply_strips(product, panels, memory + sums, {strip, std::min(strip + kTogether, end)}, memory);
    });
  });
}

void BitmaskHalf::multiply_strips(const HalfProduct& product, const Panels& panels, const float* x,
                                  const Strips& strips, float* sums) const {
  const BitmaskHalfView w = {words_, bits_.data(), values_.data(), offsets_.data()};
  const int64_t stride = kTogether * kHalfStrip;
  for (int64_t i = 0; i < panels.count; ++i) {
    const int64_t first = panels.at(i), last = panels.at(i + 1);
    kernels_->multiply(w, x + first * words_, last - first, strips.begin, strips.end, sums, stride);
    for (int64_t m = first; m < last; ++m)
      product.finish(*activations_, rows_, m, strips.begin * kHalfStrip, std::min(strips.end * kHalfStrip, rows_),
                     sums + (m - first) * stride);
  }
}

}  // namespace sparsekit
