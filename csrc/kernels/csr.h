// Compressed sparse rows: an unstructured weight, one row per output.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/product.h"

namespace sparsekit {

// Some rows of a weight, cut into tiles of columns and laid out in the order in which they are read: tile by tile, and
// in a tile row by row. The activations that one tile reads fit in the first-level cache.
struct CsrChunk {
  int64_t first_row, rows;
  int64_t tiles, tile_columns;
  const float* values;
  const uint16_t* indices;  // column inside the tile
  const uint16_t* counts;   // entries of row r in tile t, at t * rows + r
};

// One entry per instruction set.
struct CsrKernels {
  int panel_width;  // tokens in a full panel

  // Columns of the panel that `tokens` tokens take: the narrowest width with a kernel.
  int (*panel_tokens)(int64_t tokens);
  // panel[k * panel_tokens(tokens) + m] = x[first + m][k] for `tokens` tokens, zero beyond.
  void (*pack)(const Product&, int64_t columns, int64_t first, int64_t tokens, float* panel);
  // y[first + m][n] for the tokens in the panel and the rows n of the chunk, of `rows` in all; `sums` is scratch for
  // (kChunkRows + kSpareRows) * panel_width floats.
  void (*multiply_chunk)(const CsrChunk&, const Product&, int64_t rows, const float* panel, int64_t first,
                         int64_t tokens, float* sums);
};

constexpr int64_t kChunkRows = 128;
// Lets the last rows of a chunk be transposed as a whole square.
constexpr int64_t kSpareRows = 16;

struct CsrParts {
  int64_t rows, columns, nnz;
  const float* values;
  const void* indices;
  bool wide_indices;
  const void* offsets;
  bool wide_offsets;
};

// A 64-bit copy of the offsets; refused unless they rise and the columns of each row ascend inside the matrix.
std::vector<int64_t> checked_csr(const CsrParts& parts);

// A checked weight for many tokens: its own copy, in chunks.
class CsrPanels {
 public:
  explicit CsrPanels(const CsrParts& parts);
  void multiply(const Product& product) const;

 private:
  CsrChunk chunk(int64_t index) const;
  template <class Index>
  void fill(const CsrParts& parts, const std::vector<int64_t>& offsets);

  int64_t rows_, columns_, tiles_, tile_columns_, chunk_rows_;
  const CsrKernels* kernels_;
  const ActivationKernels* activations_;
  std::vector<float> values_;
  std::vector<uint16_t> indices_;
  std::vector<uint16_t> counts_;
  std::vector<int64_t> chunk_offsets_;  // entries before each chunk
};

}  // namespace sparsekit
