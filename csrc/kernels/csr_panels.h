// Compressed sparse rows against panels of tokens: an unstructured weight, many tokens.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/csr.h"

namespace sparsekit {

// What two rows, one below the other, hold in one tile of columns. A column of both is loaded once.
struct CsrRuns {
  uint16_t entries[2];  // of each row alone
  uint16_t shared;      // columns of both
};

// Some rows of a weight in some tiles of columns, laid out in the order in which they are read: tile by tile, in a tile
// two rows by two, and of these the first row's own entries, the second's, and those of both, two values side by side.
struct CsrChunk {
  int64_t first_row, rows;
  int64_t tiles, tile_columns;
  const float* values;
  const uint16_t* columns;  // inside the tile
  const CsrRuns* runs;      // of rows 2 * i and 2 * i + 1 in tile t at t * ceil(rows / 2) + i
};

// panel[k * vectors * lanes + m] = x[first + m][k] for the columns k of some tiles.
struct CsrPanel {
  const float* x;
  int vectors;
  int64_t first, tokens;
};

// Vectors of the widest panel: the sums of two rows and the rest of a loop fit in the registers of every instruction
// set, and a tile that long runs need fits in the first-level cache.
constexpr int kMostCsrVectors = 4;

// One entry per instruction set.
struct CsrPanelsKernels {
  int lanes;  // tokens of a vector

  // Columns [column, column + columns) of a panel's tokens, zero beyond these.
  void (*pack)(const Product&, int64_t column, int64_t columns, const CsrPanel&, float* to);
  // sums[r][m] for the rows r of the chunk; they start at the bias where `start`, else they are added to.
  void (*multiply)(const CsrChunk&, const CsrPanel&, const float* bias, bool start, float* sums);
  // y[first + m][first_row + r] = sums[r][m], of `rows` outputs in all.
  void (*store)(const CsrChunk&, const CsrPanel&, const Product&, int64_t rows, const float* sums);
};

// How a weight is cut for panels of some width.
struct CsrTiles {
  int64_t columns;        // of a tile
  int64_t block_columns;  // packed at a time
  int most_vectors;       // of a panel
  bool pair;              // load a column of both rows of a pair once
};

// A weight in the order in which panels of some width read it.
class CsrLayout {
 public:
  CsrLayout(const CsrParts& parts, const std::vector<int64_t>& offsets, const CsrTiles& tiles);

  // Chunk `index` in the tiles of one block of columns.
  CsrChunk chunk(int64_t block, int64_t index) const;

  const int most_vectors;
  const int64_t block_columns, blocks;
  std::vector<int64_t> chunk_offsets;  // entries before each chunk, by which work is shared out

 private:
  template <class Index>
  class Filler;
  template <class Rows>
  void fill(Rows rows);

  // Columns of a block; a weight without columns has one of a single, empty one, which sets the sums to the bias.
  int64_t width(int64_t block) const;

  struct Place {
    std::size_t value, column, runs;
  };
  int64_t size_[2];
  int64_t tile_columns_;
  std::vector<float> values_;
  std::vector<uint16_t> columns_;
  std::vector<CsrRuns> runs_;
  std::vector<Place> places_;  // of each chunk in each block
};

// A checked weight for many tokens: its own copies, for panels of one vector, of two and of more, each made when it is
// first needed. Does not own values and indices.
class CsrPanels {
 public:
  explicit CsrPanels(const CsrParts& parts);
  void multiply(const Product& product) const;
  void multiply(const HalfProduct& product) const;

 private:
  struct Made {
    CsrTiles tiles;
    mutable std::once_flag once;
    mutable std::unique_ptr<CsrLayout> layout;
  };

  const CsrLayout& layout_for(int64_t vectors) const;
  // `Operands` packs a panel and stores its sums.
  template <class Operands>
  void multiply_panels(const Operands& operands, int64_t batch) const;
  // The chunks [begin, end) against one panel, which is packed here.
  template <class Operands>
  void multiply_panel(const CsrPanelsKernels& kernels, const CsrLayout& layout, const Operands& operands,
                      CsrPanel panel, int64_t begin, int64_t end) const;

  CsrParts parts_;
  std::vector<int64_t> offsets_;
  const CsrPanelsKernels* kernels_;
  const CsrPanelsKernels* short_kernels_;  // of half the lanes, for tokens that fill no more
  const ActivationKernels* activations_;
  Made made_[3];  // for panels of one vector, of two, of more
};

}  // namespace sparsekit
