// Blocks in bfloat16 with fp32 sums: a word holds two neighbouring inputs, for one output or one token.
#pragma once

#include <cstdint>
#include <vector>

#include "core/aligned.h"
#include "kernels/blocks.h"
#include "kernels/product.h"

namespace sparsekit {

// Words are numbered by pairs of inputs and counted in 16 bits.
constexpr int64_t kMostHalfColumns = int64_t{1} << 17;

struct BlockHalfView {
  int64_t block_rows, lanes;  // outputs of a block row; rounded up to whole vectors
  // The words of one block row for each of its vectors of outputs, at most `BlockHalfKernels::vectors` side by side:
  // [strip][word][lane of the strip]. On a cache line.
  const float* weights;
  const uint16_t* words;   // which word of the activations each belongs to, ascending in a block row
  const int64_t* offsets;  // into words; block rows + 1
};

struct BlockHalfKernels {
  int width;    // lanes of a vector
  int vectors;  // of outputs that are multiplied side by side
  int sums;     // vectors of sums: tokens of a panel times vectors of outputs

  // panel[w * tokens + m] = inputs 2 w and 2 w + 1 of token first + m; 0 beyond the columns. Writes up to `width` words
  // beyond the panel.
  void (*pack)(const HalfProduct&, int64_t columns, int64_t first, int64_t tokens, float* panel);
  // sums[m * stride + i] for the tokens of a panel and the outputs i of the block rows [begin, end). Writes up to
  // `width` sums beyond.
  void (*multiply)(const BlockHalfView&, const float* panel, int64_t tokens, int64_t begin, int64_t end, float* sums,
                   int64_t stride);
};

// A packed weight that has been checked and copied into the order in which it is read.
class BlockHalf {
 public:
  BlockHalf(const BlockPlaces& places, const uint16_t* values);
  void multiply(const HalfProduct& product) const;

 private:
  void fill(const BlockPlaces& places, const std::vector<int64_t>& offsets, const uint16_t* values);

  int64_t rows_, columns_, block_rows_, lanes_;
  const BlockHalfKernels* kernels_;
  const ActivationKernels* activations_;
  Aligned<float> weights_;
  std::vector<uint16_t> words_;
  std::vector<int64_t> offsets_;
};

}  // namespace sparsekit
