// A bit per weight, kept weights in 8 bits, times few tokens that are rounded to 8 bits here: bound by memory.
#pragma once

#include <cstdint>
#include <vector>

#include "core/pages.h"
#include "kernels/product.h"

namespace sparsekit {

// Rows that are decoded side by side, and columns that one word of their bits stands for.
constexpr int kInt8Rows = 4;
constexpr int64_t kInt8Word = 64;
constexpr int64_t kInt8MostTokens = 4;

// Group n holds the rows [kInt8Rows n, kInt8Rows (n + 1)); those beyond the last row have no bits. Words and values lie
// in the order in which they are read: by group, by column, by row. Word g of row r of group n is at
// bits[(n * words + g) * kInt8Rows + r].
struct Int8BitmaskView {
  int64_t rows;
  int64_t words;
  const int8_t* values;    // kInt8Word may be read beyond their end
  const int64_t* offsets;  // where each group's values begin
  const uint64_t* bits;
  const float* scales;    // one per row of every group
  const int32_t* starts;  // what sums begin with, likewise
};

// At most kInt8MostTokens tokens in 8 bits.
struct Int8Vectors {
  const uint8_t* x;  // (tokens, words * kInt8Word)
  const float* steps;
};

struct Int8BitmaskKernels {
  int offset;  // of stored activations above their value

  // Rounds all tokens, to `padded` bytes each, and writes their steps.
  void (*quantize)(const Product&, int64_t columns, int64_t padded, uint8_t* x, float* steps);
  // y of all tokens and the rows of the groups [begin, end).
  void (*multiply)(const Int8BitmaskView&, const Product&, const Int8Vectors&, int64_t begin, int64_t end);
};

// A packed weight that has been checked, ready to multiply, with its own copy of everything.
class Int8Bitmask {
 public:
  struct Parts {
    int64_t rows, columns, nnz;
    const int8_t* values;
    const uint16_t* bits;
    const void* offsets;
    bool wide_offsets;
    const float* scales;
  };
  explicit Int8Bitmask(const Parts& parts);
  // For at most kInt8MostTokens tokens.
  void multiply(const Product& product) const;

 private:
  void place_bits(const Parts& parts);
  void place_values(const Parts& parts, const std::vector<int64_t>& offsets);

  int64_t rows_, columns_, words_, groups_;
  const Int8BitmaskKernels* kernels_;
  const ActivationKernels* activations_;
  std::vector<int64_t> offsets_;
  std::vector<float> scales_;
  std::vector<int32_t> starts_;
  Paged<uint64_t> weight_;  // bits, then values
  uint64_t* bits_;
  int8_t* values_;
};

}  // namespace sparsekit
