#include "kernels/block_grad.h"

#include <algorithm>
#include <cstring>

#include "core/scratch.h"
#include "core/threads.h"
#include "kernels/dispatch.h"

namespace sparsekit {

namespace {

// Tokens that share one pass over the values: their sums stay in the second-level cache.
constexpr int64_t kSpreadTokens = 64;
// Tokens that are summed before the values are written: both operands of a 16 x 16 block fill the first-level cache.
constexpr int64_t kChunk = 256;
// Floats between two inputs of a chunk: an odd number of cache lines, or all of them would compete for one set.
constexpr int64_t kPitch = kChunk + 16;
// Inputs that stay in the second-level cache while the outputs stream past.
constexpr int64_t kTileInputs = (512 << 10) / (kPitch * static_cast<int64_t>(sizeof(float)));
// Floats that two vectors may read behind the last output.
constexpr int64_t kBehind = 32;

std::size_t floats(int64_t count) { return static_cast<std::size_t>(count); }

// The blocks [begin, end) of one block row, all in one tile of inputs.
struct Item {
  int64_t row, begin, end;
};

// The gradients of one token and block row, or zeros; what lies beyond the matrix does not matter.
void copy_lanes(const float* from, int64_t lanes, int64_t inside, float* to) {
  if (from == nullptr)
    std::fill(to, to + lanes, 0.0f);
  else if (lanes == inside && lanes % 8 == 0)
    for (int64_t r = 0; r < lanes; r += 8) std::memcpy(to + r, from + r, 8 * sizeof(float));
  else
    for (int64_t r = 0; r < inside; ++r) to[r] = from[r];
}

}  // namespace

// Up to kChunk tokens of both operands, as the kernel reads them.
struct BlockGrad::Chunk {
  float* grad;  // block row by block row
  int64_t grad_pitch;
  float* x;  // input by input, kPitch floats apart
  int64_t tokens;
  float* values;
  bool add;
};

BlockGrad::BlockGrad(const BlockPlaces& places)
    : places_(places),
      spread_(&best_block_grad(Isa::avx512)),
      sample_(&best_block_grad(widest_for(places.block_rows))),
      offsets_(checked_blocks("block_grad", places)),
      indices_(places.indices, places.indices + places.blocks) {
  places_.indices = nullptr;
  places_.offsets = nullptr;
}

// Writes the inputs of the blocks [begin, end), `pitch` floats apart each; returns how many lie inside the matrix.
int64_t BlockGrad::list_inputs(int64_t begin, int64_t end, int64_t pitch, int64_t* inputs) const {
  int64_t slots = 0;
  for (int64_t b = begin; b < end; ++b) {
    const int64_t column = indices_[b] * places_.block_columns;
    const int64_t inside = std::min(places_.block_columns, places_.columns - column);
    for (int64_t k = 0; k < inside; ++k) inputs[slots++] = (column + k) * pitch;
  }
  return slots;
}

void BlockGrad::spread(const SpreadProduct& product) const {
  const int64_t width = spread_->width;
  const int64_t vectors = (product.batch + width - 1) / width;
  const int64_t work = (places_.blocks + block_rows()) * places_.block_rows * places_.block_columns * product.batch;
  parallel(work, vectors, [&](int part, int parts) {
    const int64_t last = std::min(vectors * (part + 1) / parts * width, product.batch);
    for (int64_t first = vectors * part / parts * width; first < last; first += kSpreadTokens)
      spread_tokens(product, first, std::min(kSpreadTokens, last - first));
  });
}

void BlockGrad::spread_tokens(const SpreadProduct& product, int64_t first, int64_t count) const {
  static thread_local Scratch turned, sums;
  const int64_t width = spread_->width, rows = places_.rows, columns = places_.columns;
  float* grad = turned.floats(floats(kSpreadTokens * rows));
  float* x = sums.floats(floats(kSpreadTokens * columns));
  std::vector<int64_t> inputs(floats(columns));
  for (int64_t t = 0; t < count; t += width)
    spread_->turn(product.grad + (first + t) * product.grad_stride, product.grad_stride, rows,
                  std::min(width, count - t), width, grad + t * rows);
  std::fill(x, x + (count + width - 1) / width * width * columns, 0.0f);
  for (int64_t row = 0; row < block_rows(); ++row) {
    const int64_t begin = row * places_.block_rows;
    const int64_t inside = std::min(places_.block_rows, rows - begin);
    const float* values = product.values + offsets_[row] * places_.block_rows * places_.block_columns;
    const int64_t slots = list_inputs(offsets_[row], offsets_[row + 1], width, inputs.data());
    for (int64_t t = 0; t < count; t += width)
      spread_->spread(
          {grad + t * rows + begin * width, values, inputs.data(), slots, places_.block_rows, inside, x + t * columns});
  }
  for (int64_t t = 0; t < count; t += width)
    spread_->turn_back(x + t * columns, columns, std::min(width, count - t), product.x + (first + t) * columns);
}

void BlockGrad::sample(const SampledProduct& product) const {
  static thread_local Scratch inputs, outputs;
  Chunk chunk = {};
  chunk.grad_pitch = kChunk * places_.block_rows + 16;  // as with kPitch
  chunk.x = inputs.floats(floats(places_.columns * kPitch));
  chunk.grad = outputs.floats(floats(block_rows() * chunk.grad_pitch + kBehind));
  chunk.values = product.values;
  for (int64_t first = 0; first < product.batch; first += kChunk) {
    lay_out(product, first, chunk);
    chunk.add = first > 0;
    sample_chunk(chunk);
  }
  clear_edges(product.values);
}

void BlockGrad::lay_out(const SampledProduct& product, int64_t first, Chunk& chunk) const {
  const int64_t high = places_.block_rows, columns = places_.columns;
  const int64_t tokens = std::min(kChunk, product.batch - first);
  chunk.tokens = (tokens + 7) / 8 * 8;
  const float* x = product.x + first * product.x_stride;
  const float* grad = product.grad + first * product.grad_stride;
  parallel(tokens * (columns + places_.rows), block_rows(), [&](int part, int parts) {
    const auto cut = [&](int at) { return at == parts ? columns : columns * at / parts / 16 * 16; };
    sample_->turn(x + cut(part), product.x_stride, cut(part + 1) - cut(part), tokens, kPitch,
                  chunk.x + cut(part) * kPitch);
    const int64_t last = block_rows() * (part + 1) / parts, together = std::max<int64_t>(1, 64 / high);
    for (int64_t row = block_rows() * part / parts; row < last; row += together)
      for (int64_t m = 0; m < chunk.tokens; ++m)
        for (int64_t i = row; i < std::min(last, row + together); ++i)
          copy_lanes(m < tokens ? grad + m * product.grad_stride + i * high : nullptr, high,
                     std::min(high, places_.rows - i * high), chunk.grad + i * chunk.grad_pitch + m * high);
  });
}

void BlockGrad::sample_chunk(const Chunk& chunk) const {
  const int64_t tile = std::max<int64_t>(1, kTileInputs / places_.block_columns);
  const int64_t size = places_.block_rows * places_.block_columns;
  std::vector<Item> items;
  std::vector<int64_t> costs = {0};
  for (int64_t column = 0; column * places_.block_columns < places_.columns; column += tile)
    for (int64_t row = 0; row < block_rows(); ++row) {
      const auto begin = indices_.begin() + offsets_[row], end = indices_.begin() + offsets_[row + 1];
      const auto from = std::lower_bound(begin, end, column), to = std::lower_bound(from, end, column + tile);
      if (from == to) continue;
      items.push_back({row, from - indices_.begin(), to - indices_.begin()});
      costs.push_back(costs.back() + (to - from));
    }
  parallel(places_.blocks * size * chunk.tokens, static_cast<int64_t>(items.size()), [&](int part, int parts) {
    std::vector<int64_t> offsets(floats(tile * places_.block_columns));
    share_panels(costs, 0, 1, 1, part, parts, [&](int64_t, int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const Item& item = items[i];
        const int64_t slots = list_inputs(item.begin, item.end, kPitch, offsets.data());
        sample_->sample({chunk.grad + item.row * chunk.grad_pitch, chunk.x, offsets.data(), slots, places_.block_rows,
                         chunk.tokens, chunk.values + item.begin * size, chunk.add});
      }
    });
  });
}

// Zeroes the values that stand for no weight: those of edge blocks beyond the matrix.
void BlockGrad::clear_edges(float* values) const {
  const int64_t high = places_.block_rows, size = high * places_.block_columns;
  const int64_t wide_left = places_.columns % places_.block_columns, high_left = places_.rows % high;
  for (int64_t row = 0; row < block_rows(); ++row) {
    const bool bottom = high_left != 0 && row + 1 == block_rows();
    for (int64_t b = bottom ? offsets_[row] : std::max(offsets_[row], offsets_[row + 1] - 1); b < offsets_[row + 1];
         ++b) {
      float* block = values + b * size;
      if (wide_left != 0 && (indices_[b] + 1) * places_.block_columns > places_.columns)
        std::fill(block + wide_left * high, block + size, 0.0f);
      for (float* slot = block; bottom && slot < block + size; slot += high)
        std::fill(slot + high_left, slot + high, 0.0f);
    }
  }
}

}  // namespace sparsekit
