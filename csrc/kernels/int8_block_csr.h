// Blocks of weights in 8 bits times activations that are rounded to 8 bits here: sums are exact, in 32 bits.
#pragma once

#include <cstdint>
#include <vector>

#include "core/pages.h"
#include "kernels/blocks.h"
#include "kernels/product.h"

namespace sparsekit {

// Tokens of a panel: four inputs of each of them lie side by side.
constexpr int kInt8Panel = 16;
// So few tokens at the end are read in place, one after the other.
constexpr int kInt8InPlace = 4;
// A row's weights are padded to so many outputs, which fill vectors of every width.
constexpr int64_t kInt8Lanes = 16;

struct Int8BlocksView {
  int64_t rows;
  int64_t block_rows;
  int64_t lanes;           // block_rows, padded
  int64_t steps;           // of four inputs, of one block
  const int8_t* values;    // (blocks, steps, lanes, 4), on a cache line
  const int32_t* columns;  // the first step of each block
  const int64_t* offsets;  // block rows + 1
  const float* scales;     // (block rows, lanes)
  const int32_t* starts;   // (block rows, lanes): what sums begin with
};

// A chunk of tokens in 8 bits, panel after panel, each of `panel_bytes`.
struct Int8Tokens {
  const uint8_t* panels;
  int64_t panel_bytes;
  int64_t row_bytes;   // of a token that is read in place
  const float* steps;  // one per token
  int64_t first, count;
};

struct Int8BlockCsrKernels {
  int offset;  // of stored activations above their value

  // Rounds the tokens [first, first + tokens) of x, at most kInt8Panel of them, into one panel, (padded / 4,
  // kInt8Panel, 4) or for at most kInt8InPlace tokens (tokens, padded), and writes their steps. `rows` holds a whole
  // panel.
  void (*quantize)(const Product&, int64_t columns, int64_t padded, int64_t first, int64_t tokens, uint8_t* rows,
                   uint8_t* panel, float* steps);
  // y for a chunk of tokens and the block rows [begin, end).
  void (*multiply)(const Int8BlocksView&, const Product&, const Int8Tokens&, int64_t begin, int64_t end);
};

// Refuses weights whose sums of products would not fit into 32 bits.
void check_int8_sizes(int64_t rows, int64_t columns);

// Refuses integers outside [-127, 127].
void check_int8_values(const int8_t* values, int64_t count);

// Refuses scales that are negative or not finite.
void check_int8_scales(const float* scales, int64_t rows);

// Where in a buffer each weight of a block lies: block b, its column k and row r at values[b * block + k * column + r *
// row].
struct Int8Source {
  const int8_t* values;
  int64_t block, column, row;
};

// A packed weight that has been checked, ready to multiply, with its own copy of everything.
class Int8BlockCsr {
 public:
  // Blocks of a multiple of 4 columns; `scales` holds one per row.
  Int8BlockCsr(const BlockPlaces& places, const int8_t* values, const float* scales);
  // A dense matrix (rows, columns).
  Int8BlockCsr(int64_t rows, int64_t columns, const int8_t* values, const float* scales);
  void multiply(const Product& product) const;

 private:
  void place(const Int8Source& source, const float* scales);

  int64_t rows_, columns_, block_rows_, block_columns_;
  int64_t lanes_, steps_, padded_;
  const Int8BlockCsrKernels* kernels_;
  const ActivationKernels* activations_;
  std::vector<int64_t> offsets_;
  std::vector<int32_t> first_steps_, starts_;
  std::vector<float> scales_;
  Paged<int8_t> values_;
};

}  // namespace sparsekit
