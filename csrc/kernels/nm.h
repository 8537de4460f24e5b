// N of every M columns, for few tokens: positions instead of columns, and activations picked from registers.
#pragma once

#include <cstdint>
#include <vector>

#include "core/pages.h"
#include "kernels/product.h"

namespace sparsekit {

// Rows that share the activations in registers.
constexpr int kNmRows = 8;
// A row's kept weights in pieces of this many: one vector.
constexpr int kNmLanes = 16;

// Piece c of every row reads the columns [starts[c], starts[c] + reach). Group n holds the rows [n * kNmRows, ...),
// piece by piece and in a piece row by row. Columns that fill no group are stored whole.
struct NmView {
  int64_t rows, pieces;
  int reach;              // 32 or 64
  bool short_indices;     // 2 bits for each lane, or one byte
  const uint8_t* bases;   // for short indices, what is added in each lane
  const int64_t* starts;  // per piece
  const float* values;    // (groups, pieces, kNmRows, kNmLanes), on a cache line
  const uint8_t* indices;
  const float* tail;  // (rows, tail_columns)
  int64_t tail_start, tail_columns;
};

struct NmKernels {
  // y[m][n] for every token and the rows of the groups [begin, end); x reaches to the end of the last piece.
  void (*multiply_groups)(const NmView&, const Product&, int64_t begin, int64_t end);
};

// A packed weight that has been checked, as its own copy in the order in which it is read.
class Nm {
 public:
  struct Parts {
    int64_t rows, columns, n, m;
    const float* values;       // (rows, columns / m * n)
    const uint8_t* positions;  // see formats/nm.py
    const float* tail;         // (rows, columns % m)
  };
  explicit Nm(const Parts& parts);
  void multiply(const Product& product) const;
  void multiply(const HalfProduct& product) const;

 private:
  void place_pieces(const Parts& parts);
  void fill(const Parts& parts);
  void fill_row(const Parts& parts, int64_t row);

  int64_t rows_, columns_, kept_, pieces_;
  int reach_;
  bool short_indices_;
  const NmKernels* kernels_;
  const ActivationKernels* activations_;
  std::vector<uint8_t> bases_;
  std::vector<int64_t> starts_;
  Paged<float> values_;
  Paged<uint8_t> indices_;
  std::vector<float> tail_;
  int64_t tail_columns_;
};

// Columns from the first to the last group that any piece touches, with groups of n of m.
int64_t nm_reach(int64_t n, int64_t m);
// Bytes that the positions of one row of `kept` weights take.
int64_t nm_position_bytes(int64_t kept, int64_t m);

}  // namespace sparsekit
