// A bit per weight says whether it is stored: the smallest form between about half and nine tenths of zeros.
#pragma once

#include <cstdint>
#include <vector>

#include "core/pages.h"
#include "kernels/product.h"

namespace sparsekit {

// Rows that one word of the kernel's bits stands for, and columns whose words are read at once.
constexpr int kBitmaskRows = 16;
constexpr int kBitmaskColumns = 8;

// Group n holds the rows [n * kBitmaskRows, (n + 1) * kBitmaskRows), those beyond the last without bits. Bit r of word
// k of a group says whether its row r keeps column k; the kept weights follow each other in the order of the bits.
struct BitmaskView {
  int64_t rows, columns;
  int64_t words;           // of a group: columns, and words without bits up to a multiple of kBitmaskColumns
  const uint16_t* bits;    // group by group
  const float* values;     // on a cache line; kBitmaskRows may be read beyond their end
  const int64_t* offsets;  // values before each group
};

struct BitmaskKernels {
  // y[m][n] for every token and the rows of the groups [begin, end).
  void (*multiply_groups)(const BitmaskView&, const Product&, int64_t begin, int64_t end);
};

// A packed weight that has been checked, ready to multiply, with its own copy in the order in which it is read.
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
  void fill(const Parts& parts);

  int64_t rows_, columns_, words_, groups_;
  const BitmaskKernels* kernels_;
  const ActivationKernels* activations_;
  std::vector<int64_t> group_offsets_;
  Paged<uint16_t> bits_;
  Paged<float> values_;
};

}  // namespace sparsekit
