// Compressed sparse rows: an unstructured weight, one row per output.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/product.h"

namespace sparsekit {

// A weight as it was packed. Rows [begin, end) of it are multiplied at a time.
struct CsrView {
  int64_t rows;
  const float* values;
  const void* indices;  // uint16_t or int32_t, ascending in each row
  bool wide_indices;    // int32_t
  const int64_t* offsets;
};

// One entry per instruction set.
struct CsrKernels {
  // y[m][n] for every token and the rows [begin, end), one dot product at a time.
  void (*multiply_rows)(const CsrView&, const Product&, int64_t begin, int64_t end);
};

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

// A checked weight for few tokens. Does not own values and indices.
class CsrRows {
 public:
  explicit CsrRows(const CsrParts& parts);
  void multiply(const Product& product) const;

 private:
  CsrParts parts_;
  const CsrKernels* kernels_;
  const ActivationKernels* activations_;
  std::vector<int64_t> offsets_;
};

}  // namespace sparsekit
