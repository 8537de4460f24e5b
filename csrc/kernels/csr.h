// Compressed sparse rows: an unstructured weight, one row per output.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/product.h"

namespace sparsekit {

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

}  // namespace sparsekit
