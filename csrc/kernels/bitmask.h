// A bit per weight says whether it is stored: the smallest form between about half and nine tenths of zeros.
#pragma once

#include <cstdint>
#include <vector>

#include "core/scratch.h"
#include "kernels/product.h"

namespace sparsekit {

// Row n's values begin at values + offsets[n] - first_offset; each may be read kSpareValues beyond its end.
struct BitmaskView {
  int64_t rows;
  int64_t words;  // 16 columns each
  const float* values;
  int64_t first_offset;
  const uint16_t* bits;
  const int64_t* offsets;
};

constexpr int64_t kSpareValues = 16;

struct BitmaskKernels {
  // y[m][n] for every token and the rows [begin, end); x has 16 * words columns.
  void (*multiply_rows)(const BitmaskView&, const Product&, int64_t begin, int64_t end);
};

// A packed weight that has been checked, ready to multiply. Does not own values and bits.
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

 private:
  Parts parts_;
  const BitmaskKernels* kernels_;
  int64_t words_;
  int64_t safe_rows_;  // rows whose values may be over-read inside `parts_.values`
  std::vector<int64_t> offsets_;
  std::vector<float> tail_;  // the values of the other rows, with spare room
};

}  // namespace sparsekit
