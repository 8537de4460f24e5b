// Blocks in bfloat16 with fp32 sums: a word holds two neighbouring inputs, for one output or one token.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/pages.h"
#include "kernels/blocks.h"
#include "kernels/product.h"

namespace sparsekit {

// Words are numbered by pairs of inputs and counted in 16 bits.
constexpr int64_t kMostHalfColumns = int64_t{1} << 17;

// Words of a token in a panel. Rows of tiles end in words that are 0; that many more keep 16 tokens, side by side, from
// competing for one set of the first-level cache.
inline int64_t panel_words(int64_t columns, int64_t run) {
  const int64_t words = (columns + 1) / 2;
  return run == 1 ? words : (words + run - 1) / run * run + run;
}

struct BlockHalfView {
  int64_t rows;
  int64_t block_rows, lanes;  // outputs of a block row; rounded up to whole vectors
  // The words of one block row for each of its vectors of outputs, at most `BlockHalfKernels::vectors` side by side:
  // [strip][word][lane of the strip]. On a cache line.
  const float* weights;
  const uint16_t* words;   // which word of the activations each belongs to, ascending in a block row
  const int64_t* offsets;  // into words; block rows + 1
  int64_t panel_words;
};

struct BlockHalfKernels {
  int width;    // lanes of a vector
  int vectors;  // of outputs that are multiplied side by side
  int sums;     // vectors of sums: tokens of a panel times vectors of outputs
  int run;      // words that are read together: a block row has whole runs of them, each from a multiple of it on
  // Called by each thread before its products and after them, where not null.
  void (*begin)();
  void (*end)();

  // panel[w * tokens + m], or in runs panel[m * panel_words + w] = inputs 2 w and 2 w + 1 of token first + m; 0 beyond
  // the columns. Writes up to `width` words beyond the panel, or in runs `width` tokens.
  void (*pack)(const HalfProduct&, int64_t columns, int64_t first, int64_t tokens, float* panel);
  // sums[m * stride + i] for the tokens of a panel and the outputs i of the block rows [begin, end). Writes up to
  // `width` sums beyond, for as many tokens as make whole vectors.
  void (*multiply)(const BlockHalfView&, const float* panel, int64_t tokens, int64_t begin, int64_t end, float* sums,
                   int64_t stride);
};

// What `amx.h` does, computed without it.
extern const BlockHalfKernels block_half_emulated;

// Whether both give the sums of a small product, which has only one result in any order.
bool agree(const BlockHalfKernels& a, const BlockHalfKernels& b);

// A packed weight that has been checked and copied into the order in which it is read.
class BlockHalf {
 public:
  // With `emulated`, a test of the kernel for tiles on any processor.
  BlockHalf(const BlockPlaces& places, const uint16_t* values, bool emulated);
  void multiply(const HalfProduct& product) const;

 private:
  struct Sizes {
    int64_t panel, chunk;  // tokens: whose sums the registers hold; whose activations stay in the caches
    int64_t words;         // of a token in a panel
    int64_t together;      // block rows whose sums are finished together
    int64_t stride;        // between the sums of two tokens
  };
  // Some tokens times some block rows.
  struct Chunk {
    int64_t first, tokens, begin, end;
  };

  Sizes sizes(int64_t batch) const;
  void multiply_chunk(const HalfProduct& product, const Sizes& size, const Chunk& chunk, float* sums) const;
  // Fills words and offsets, runs included; returns how many words there are without them.
  int64_t find_words(const BlockPlaces& places, const std::vector<int64_t>& blocks);
  void fill(const BlockPlaces& places, const std::vector<int64_t>& blocks, const uint16_t* values);

  int64_t rows_, columns_, block_rows_, lanes_;
  const BlockHalfKernels* kernels_;
  const ActivationKernels* activations_;
  Paged<float> weights_;
  std::vector<uint16_t> words_;
  std::vector<int64_t> offsets_;
};

}  // namespace sparsekit
