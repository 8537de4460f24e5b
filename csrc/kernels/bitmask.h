// A bit per weight says whether it is stored: the smallest form between about half and nine tenths of zeros.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/product.h"

namespace sparsekit {

// Rows that are decoded side by side.
constexpr int kBitmaskRows = 8;

// Group n holds the rows n, n + groups, n + 2 * groups, ...; those beyond the last row have no bits. The words of a
// group lie side by side: word g of its row r at bits[(n * words + g) * kBitmaskRows + r].
struct BitmaskView {
  int64_t rows;
  int64_t groups;
  int64_t words;               // of 16 columns
  const float* const* values;  // where each row's values begin; 16 may be read beyond their end
  const uint16_t* bits;
};

struct BitmaskKernels {
  // y[m][n] for every token and the rows of the groups [begin, end); x has 16 * words columns.
  void (*multiply_groups)(const BitmaskView&, const Product&, int64_t begin, int64_t end);
};

// A packed weight that has been checked, ready to multiply, with its own copy of the bits. Does not own the values.
class Bitmask {
 public:
  struct Parts {
    int64_t rows, columns, nnz;
    const float* values;
    const uint16_t* bits;
    const void* offsets;
    bool wide_offsets;
  };
  explicit Bitmask(const Parts& parts);
  void multiply(const Product& product) const;
  void multiply(const HalfProduct& product) const;

 private:
  void place_values(const Parts& parts, const std::vector<int64_t>& offsets);

  int64_t rows_, columns_, words_, groups_;
  const BitmaskKernels* kernels_;
  const ActivationKernels* activations_;
  std::vector<uint16_t> bits_;
  std::vector<const float*> values_;    // one per row of every group
  std::vector<float> tail_;             // the last rows' values, with room to read beyond them
  std::vector<int64_t> group_offsets_;  // values before each group, were they stored group by group
};

}  // namespace sparsekit
