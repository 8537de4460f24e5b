#include "kernels/csr.h"

#include <algorithm>

#include "core/check.h"
#include "core/threads.h"
#include "kernels/dispatch.h"
#include "kernels/offsets.h"

namespace sparsekit {

namespace {

// Work of a row beside its entries, in entries: loop set-up and the store of its sums.
constexpr int64_t kRowCost = 4;
// Rows per share are a multiple of this, so that two threads never write one cache line of y.
constexpr int64_t kRowStep = 16;
template <class Index>
void check_indices(const Index* indices, const std::vector<int64_t>& offsets, int64_t columns) {
  for (std::size_t n = 0; n + 1 < offsets.size(); ++n) {
    int64_t previous = -1;
    for (int64_t p = offsets[n]; p < offsets[n + 1]; ++p) {
      const int64_t k = static_cast<int64_t>(indices[p]);
      check(k > previous && k < columns, "csr: row " + std::to_string(n) + ": expected ascending columns below " +
                                             std::to_string(columns) + ", got " + std::to_string(k) + " after " +
                                             std::to_string(previous));
      previous = k;
    }
  }
}

}  // namespace

std::vector<int64_t> checked_csr(const CsrParts& parts) {
  std::vector<int64_t> offsets = checked_offsets("csr", parts.offsets, parts.wide_offsets, parts.rows, parts.nnz);
  if (parts.wide_indices)
    check_indices(static_cast<const int32_t*>(parts.indices), offsets, parts.columns);
  else
    check_indices(static_cast<const uint16_t*>(parts.indices), offsets, parts.columns);
  return offsets;
}

CsrRows::CsrRows(const CsrParts& parts)
    : parts_(parts), kernels_(&best_csr()), activations_(&best_activation()), offsets_(checked_csr(parts)) {}

void CsrRows::multiply(const Product& product) const {
  const CsrView w = {parts_.rows, parts_.values, parts_.indices, parts_.wide_indices, offsets_.data()};
  const int64_t steps = (parts_.rows + kRowStep - 1) / kRowStep;
  parallel((parts_.nnz + kRowCost * parts_.rows) * product.batch, steps, [&](int part, int parts) {
    share_panels(offsets_, kRowCost, kRowStep, 1, part, parts, [&](int64_t, int64_t begin, int64_t end) {
      kernels_->multiply_rows(w, product, begin, end);
      product.finish(*activations_, parts_.rows, 0, product.batch, begin, end);
    });
  });
}

}  // namespace sparsekit
