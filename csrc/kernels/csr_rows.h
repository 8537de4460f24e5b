// Compressed sparse rows for few tokens: one dot product per row and token, bound by the bytes of the weight.
#pragma once

#include <cstdint>
#include <vector>

#include "core/aligned.h"
#include "kernels/csr.h"

namespace sparsekit {

// A weight as it was packed. Rows [begin, end) of it are multiplied at a time.
struct CsrView {
  int64_t rows;
  const float* values;
  const void* indices;  // uint16_t or int32_t, ascending in each row
  bool wide_indices;    // int32_t
  const int64_t* offsets;
};

constexpr int kLockstepRows = 16;

// Rows of about one length in lockstep: step p of a group holds the p-th entry of each of its rows, or weight 0 at
// column 0 where a row has ended. A row's sum stays in one lane, so that nothing is added up across lanes, and the loop
// is left once for all rows.
struct LockstepView {
  int64_t rows;
  const int64_t* offsets;   // steps before each group
  const int32_t* order;     // the row in each place, or -1
  const float* values;      // (steps, kLockstepRows), on a cache line
  const uint16_t* indices;  // the same
};

struct CsrRowsKernels {
  // y[m][n] for every token and the rows [begin, end).
  void (*multiply_rows)(const CsrView&, const Product&, int64_t begin, int64_t end);
  // The same for the rows in the groups [begin, end).
  void (*multiply_groups)(const LockstepView&, const Product&, int64_t begin, int64_t end);
};

// A checked weight for few tokens. Up to a sparsity of about 7/8 it keeps its own copy, in lockstep; beyond, the rows
// are too short for that, and are read where they are: values and indices are not owned.
class CsrRows {
 public:
  explicit CsrRows(const CsrParts& parts);
  void multiply(const Product& product) const;
  void multiply(const HalfProduct& product) const;

 private:
  bool worth_lockstep() const;
  void order_rows();
  template <class Index>
  void fill_groups();
  void multiply_rows(const Product& product) const;
  void multiply_groups(const Product& product) const;

  CsrParts parts_;
  const CsrRowsKernels* kernels_;
  const ActivationKernels* activations_;
  std::vector<int64_t> offsets_;
  // In lockstep:
  std::vector<int32_t> order_;
  std::vector<int64_t> group_offsets_;
  Aligned<float> values_;
  Aligned<uint16_t> indices_;
};

}  // namespace sparsekit
