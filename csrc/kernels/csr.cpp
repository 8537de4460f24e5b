#include "kernels/csr.h"

#include "core/check.h"
#include "kernels/offsets.h"

namespace sparsekit {

namespace {

template <class Index>
void check_indices(const Index* indices, const std::vector<int64_t>& offsets, int64_t columns) {
  for (std::size_t n = 0; n + 1 < offsets.size(); ++n) {
    int64_t previous = -1;
    for (int64_t p = offsets[n]; p < offsets[n + 1]; ++p) {
      const int64_t k = static_cast<int64_t>(indices[p]);
      if (k <= previous || k >= columns)  // the message is made where it is needed: this loop sees every weight
        check(false, "csr: row " + std::to_string(n) + ": expected ascending columns below " + std::to_string(columns) +
                         ", got " + std::to_string(k) + " after " + std::to_string(previous));
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

}  // namespace sparsekit
