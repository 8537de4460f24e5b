// Compressed sparse rows for few tokens: one dot product per row and token, bound by the bytes of the weight.
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "core/pages.h"
#include "kernels/csr.h"
#include "kernels/csr_windows.h"

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
// Tokens that are multiplied at a time where there are several.
constexpr int kLockstepTokens = 4;

// One entry of each of the rows of a group: weight 0 at column 0 where a row has ended.
struct LockstepEntries {
  float values[kLockstepRows];
  uint16_t columns[kLockstepRows];
};

// Rows of about one length in lockstep: a row's sum stays in one lane, so that nothing is added up across lanes, and
// the loop is left once for all rows.
struct LockstepView {
  int64_t rows, columns;
  const int64_t* offsets;  // steps before each group
  const int32_t* order;    // the row in each place, or -1
  const LockstepEntries* steps;
};

struct CsrRowsKernels {
  // y[m][n] for every token and the rows [begin, end).
  void (*multiply_rows)(const CsrView&, const Product&, int64_t begin, int64_t end);
  // The same for the rows in the groups [begin, end).
  void (*multiply_groups)(const LockstepView&, const Product&, int64_t begin, int64_t end);
  // The same with the activations of four tokens side by side: token m's of column k at
  // x[(m / 4 * columns + k) * 4 + m % 4].
  void (*multiply_groups_by_fours)(const LockstepView&, const Product&, const float* x, int64_t begin, int64_t end);
  // The same for the groups [begin, end) of windows, up to kMostWindowTokens tokens of kWindowColumns columns at least;
  // null where registers hold no window.
  void (*multiply_windows)(const WindowView&, const Product&, int64_t begin, int64_t end);
};

// A checked weight for few tokens. It keeps its own copies, each made when it is first needed: of windows for up to
// kMostWindowTokens tokens, and in lockstep for more and where windows would stay too empty. Rows whose lengths are too
// uneven for that, and those of more columns than 16 bits count, are read where they are: values and indices are not
// owned.
class CsrRows {
 public:
  explicit CsrRows(const CsrParts& parts);
  void multiply(const Product& product) const;
  void multiply(const HalfProduct& product) const;

 private:
  struct Lockstep {
    std::vector<int64_t> offsets;  // steps before each group
    Paged<LockstepEntries> steps;
    bool empty() const { return offsets.empty(); }
  };

  void order_rows();
  const Lockstep& lockstep() const;
  template <class Index>
  void fill_steps(Lockstep& lockstep) const;
  template <class Body>
  void share_groups(const std::vector<int64_t>& offsets, int64_t entries, const Product& product, Body body) const;
  void multiply_rows(const Product& product) const;
  void multiply_lockstep(const Lockstep& lockstep, const Product& product) const;
  void multiply_windows(const Product& product) const;

  CsrParts parts_;
  const CsrRowsKernels* kernels_;
  const ActivationKernels* activations_;
  std::vector<int64_t> offsets_;
  std::vector<int32_t> order_;
  CsrWindows windows_;
  mutable std::once_flag once_;
  mutable Lockstep lockstep_;
};

}  // namespace sparsekit
