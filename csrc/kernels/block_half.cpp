#include "kernels/block_half.h"

#include <algorithm>

#include "core/aligned.h"
#include "core/check.h"
#include "core/scratch.h"
#include "core/threads.h"
#include "kernels/dispatch.h"
#include "kernels/offsets.h"

namespace sparsekit {

namespace {

// Packed activations that stay in the second-level cache while the weight streams past.
constexpr int64_t kChunkBytes = 256 << 10;
// Outputs whose sums are finished together: a call for each token is shared by them, and their lines are written whole.
constexpr int64_t kOutputs = 128;
// Work of a block row beside its words, in words.
constexpr int64_t kRowCost = 4;

int64_t rounded_up(int64_t count, int64_t step) { return (count + step - 1) / step * step; }

// Tiles hold what is not stored as 0. From so many times the words on, weights that come from memory cost as much more.
constexpr int64_t kMostFilling = 2;

// Calls each(column, values of its outputs) for the columns of the blocks [from, to).
template <class Each>
void for_columns(const BlockPlaces& places, int64_t from, int64_t to, const uint16_t* values, Each each) {
  for (int64_t b = from; b < to; ++b) {
    const int64_t first = places.indices[b] * places.block_columns;
    for (int64_t k = 0; k < places.block_columns && first + k < places.columns; ++k)
      each(first + k, values == nullptr ? nullptr : values + (b * places.block_columns + k) * places.block_rows);
  }
}

}  // namespace

bool agree(const BlockHalfKernels& a, const BlockHalfKernels& b) {
  constexpr int kTokens = 19, kWords = 48, kLanes = 32;
  const auto small = [](int i) { return static_cast<uint16_t>(i % 3 == 0 ? 0x3f80 : i % 7 == 0 ? 0xc040 : 0x4000); };
  uint16_t x[kTokens * 2 * kWords], words[kWords];
  for (int i = 0; i < kTokens * 2 * kWords; ++i) x[i] = small(i);
  for (int i = 0; i < kWords; ++i) words[i] = static_cast<uint16_t>(i);
  Aligned<float> weights(kWords * kLanes);
  for (int i = 0; i < 2 * kWords * kLanes; ++i) reinterpret_cast<uint16_t*>(weights.data())[i] = small(i / 2 + 5 * i);
  const int64_t offsets[] = {0, kWords};
  HalfProduct product;
  product.x = x;
  product.x_stride = 2 * kWords;
  std::vector<float> sums[2];
  for (const BlockHalfKernels* kernels : {&a, &b}) {
    std::vector<float>& found = sums[kernels == &b];
    const int64_t row = panel_words(2 * kWords, kernels->run);
    Aligned<float> panel(static_cast<std::size_t>((kTokens + kernels->width) * row));
    Aligned<float> all(static_cast<std::size_t>((kTokens + kernels->width) * kLanes));
    kernels->begin();
    kernels->pack(product, 2 * kWords, 0, kTokens, panel.data());
    kernels->multiply({kLanes, kLanes, kLanes, weights.data(), words, offsets, row}, panel.data(), kTokens, 0, 1,
                      all.data(), kLanes);
    kernels->end();
    found.assign(all.data(), all.data() + kTokens * kLanes);
  }
  return sums[0] == sums[1];
}

BlockHalf::BlockHalf(const BlockPlaces& places, const uint16_t* values, bool emulated)
    : rows_(places.rows),
      columns_(places.columns),
      block_rows_(places.block_rows),
      kernels_(emulated ? &block_half_emulated : &best_block_half(Isa::amx)),
      activations_(&best_activation()) {
  check(columns_ <= kMostHalfColumns, "block_csr: expected at most " + std::to_string(kMostHalfColumns) +
                                          " columns, got " + std::to_string(columns_));
  const std::vector<int64_t> blocks = checked_blocks("block_csr", places);
  const int64_t stored = find_words(places, blocks);
  if (!emulated && kernels_->run > 1 && kMostFilling * stored <= static_cast<int64_t>(words_.size())) {
    kernels_ = &best_block_half(Isa::avx512bf16);
    find_words(places, blocks);
  }
  lanes_ = rounded_up(std::min(block_rows_, std::max<int64_t>(rows_, 1)), kernels_->width);
  fill(places, blocks, values);
}

int64_t BlockHalf::find_words(const BlockPlaces& places, const std::vector<int64_t>& blocks) {
  int64_t stored = 0;
  words_.clear();
  offsets_.assign(1, 0);
  for (std::size_t row = 0; row + 1 < blocks.size(); ++row) {
    int64_t last = -1, end = 0;  // the last word that is stored, and the end of its run
    for_columns(places, blocks[row], blocks[row + 1], nullptr, [&](int64_t column, const uint16_t*) {
      stored += column / 2 != last;
      last = column / 2;
      if (last >= end) {
        end = (last / kernels_->run + 1) * kernels_->run;
        for (int64_t word = end - kernels_->run; word < end; ++word) words_.push_back(static_cast<uint16_t>(word));
      }
    });
    offsets_.push_back(static_cast<int64_t>(words_.size()));
  }
  return stored;
}

void BlockHalf::fill(const BlockPlaces& places, const std::vector<int64_t>& blocks, const uint16_t* values) {
  weights_ = Paged<float>(words_.size() * static_cast<std::size_t>(lanes_));
  uint16_t* halves = reinterpret_cast<uint16_t*>(weights_.data());
  for (std::size_t row = 0; row + 1 < blocks.size(); ++row) {
    const int64_t count = offsets_[row + 1] - offsets_[row];
    const int64_t height = std::min(block_rows_, rows_ - static_cast<int64_t>(row) * block_rows_);
    const uint16_t* word = words_.data() + offsets_[row];
    for_columns(places, blocks[row], blocks[row + 1], values, [&](int64_t column, const uint16_t* from) {
      while (*word != column / 2) ++word;
      const int64_t place = word - words_.data() - offsets_[row];
      for (int64_t lane = 0; lane < height;) {
        const int64_t wide = std::min<int64_t>(lanes_ - lane, kernels_->vectors * kernels_->width);
        uint16_t* to = halves + 2 * (offsets_[row] * lanes_ + lane * count + place * wide) + column % 2;
        for (int64_t i = 0; i < wide && lane + i < height; ++i) to[2 * i] = from[lane + i];
        lane += wide;
      }
    });
  }
}

BlockHalf::Sizes BlockHalf::sizes(int64_t batch) const {
  Sizes sizes;
  sizes.panel = kernels_->sums / std::min<int64_t>(lanes_ / kernels_->width, kernels_->vectors);
  sizes.words = panel_words(columns_, kernels_->run);
  const int64_t token_bytes = static_cast<int64_t>(sizeof(float)) * std::max<int64_t>(sizes.words, 1);
  sizes.chunk = even_chunk(batch, kChunkBytes / token_bytes, sizes.panel);
  sizes.together = std::max<int64_t>(1, kOutputs / block_rows_);
  sizes.stride = rounded_up(sizes.together * std::min(block_rows_, lanes_) + kernels_->width, 16);
  return sizes;
}

void BlockHalf::multiply(const HalfProduct& product) const {
  const Sizes size = sizes(product.batch);
  const int64_t block_rows = static_cast<int64_t>(offsets_.size()) - 1;
  const int64_t beyond = kernels_->width * (kernels_->run == 1 ? 1 : size.words);
  const int64_t work = (offsets_.back() + kRowCost * block_rows) * lanes_ * product.batch;
  parallel(work, product.batch * block_rows, [&](int part, int parts) {
    static thread_local Scratch scratch;
    const int64_t room = size.panel * size.stride + size.chunk * size.words + beyond;
    float* sums = scratch.floats(static_cast<std::size_t>(room));
    if (kernels_->begin != nullptr) kernels_->begin();
    share_chunks(offsets_, kRowCost, 1, product.batch, size.chunk, part, parts,
                 [&](int64_t first, int64_t tokens, int64_t begin, int64_t end) {
                   multiply_chunk(product, size, {first, tokens, begin, end}, sums);
                 });
    if (kernels_->end != nullptr) kernels_->end();
  });
}

void BlockHalf::multiply_chunk(const HalfProduct& product, const Sizes& size, const Chunk& chunk, float* sums) const {
  const BlockHalfView w = {rows_, block_rows_, lanes_, weights_.data(), words_.data(), offsets_.data(), size.words};
  float* panels = sums + size.panel * size.stride;
  const int64_t shares = (chunk.tokens + size.panel - 1) / size.panel;
  // Vectors take panels of equal size, or nearly so, tiles whole ones and what is left.
  const auto share = [&](int64_t i) {
    return kernels_->run == 1 ? chunk.tokens * i / shares : std::min(chunk.tokens, i * size.panel);
  };
  for (int64_t i = 0; i < shares; ++i)
    kernels_->pack(product, columns_, chunk.first + share(i), share(i + 1) - share(i), panels + share(i) * size.words);
  for (int64_t row = chunk.begin; row < chunk.end; row += size.together) {
    const int64_t last = std::min(chunk.end, row + size.together);
    for (int64_t i = 0; i < shares; ++i) {
      const int64_t count = share(i + 1) - share(i);
      kernels_->multiply(w, panels + share(i) * size.words, count, row, last, sums, size.stride);
      for (int64_t m = 0; m < count; ++m)
        product.finish(*activations_, rows_, chunk.first + share(i) + m, row * block_rows_,
                       std::min(last * block_rows_, rows_), sums + m * size.stride);
    }
  }
}

}  // namespace sparsekit
