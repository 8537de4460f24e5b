#include "kernels/csr.h"

#include <algorithm>

#include "core/check.h"
#include "core/scratch.h"
#include "core/threads.h"
#include "kernels/dispatch.h"
#include "kernels/offsets.h"

namespace sparsekit {

namespace {

// Work of a row beside its entries, in entries: loop set-up and the store of its sums.
constexpr int64_t kRowCost = 4;
// Rows per share are a multiple of this, so that two threads never write one cache line of y.
constexpr int64_t kRowStep = 16;

// Columns per tile: so many that a row has about 20 entries in it, within the cache of a full panel.
int64_t tile_columns(int64_t columns, double density) {
  constexpr double kEntries = 20;
  int64_t tile = 64;
  while (tile < columns && static_cast<double>(tile) * density < kEntries) tile *= 2;
  return tile;
}

template <class Index>
void cut_rows(const Index* indices, const std::vector<int64_t>& offsets, int64_t columns, int64_t tile,
              std::vector<uint32_t>& cuts) {
  const int64_t rows = static_cast<int64_t>(offsets.size()) - 1;
  for (int64_t n = 0; n < rows; ++n) {
    int64_t previous = -1;
    int64_t next_cut = 0;
    for (int64_t p = offsets[n]; p < offsets[n + 1]; ++p) {
      const int64_t k = static_cast<int64_t>(indices[p]);
      check(k > previous && k < columns, "csr: row " + std::to_string(n) + ": expected ascending column indices below " +
                                             std::to_string(columns) + ", got " + std::to_string(k) + " after " +
                                             std::to_string(previous));
      previous = k;
      for (; next_cut <= k; next_cut += tile) cuts.push_back(static_cast<uint32_t>(p - offsets[n]));
    }
    for (; next_cut < columns; next_cut += tile) cuts.push_back(static_cast<uint32_t>(offsets[n + 1] - offsets[n]));
    cuts.push_back(static_cast<uint32_t>(offsets[n + 1] - offsets[n]));
  }
}

}  // namespace

Csr::Csr(const Parts& parts) : parts_(parts), kernels_(&best_csr()) {
  offsets_ = checked_offsets("csr", parts.offsets, parts.wide_offsets, parts.rows, parts.nnz);
  const double cells = static_cast<double>(parts.rows) * static_cast<double>(parts.columns);
  const int64_t tile = tile_columns(parts.columns, cells > 0 ? static_cast<double>(parts.nnz) / cells : 1.0);
  tiles_ = (parts.columns + tile - 1) / tile;
  cuts_.reserve(static_cast<std::size_t>(parts.rows * (tiles_ + 1)));
  if (parts.wide_indices)
    cut_rows(static_cast<const int32_t*>(parts.indices), offsets_, parts.columns, tile, cuts_);
  else
    cut_rows(static_cast<const uint16_t*>(parts.indices), offsets_, parts.columns, tile, cuts_);
}

CsrView Csr::view() const {
  return {parts_.rows,          parts_.columns,  tiles_,       parts_.values, parts_.indices,
          parts_.wide_indices, offsets_.data(), cuts_.data()};
}

void Csr::multiply_panels(const Product& product) const {
  const int64_t width = kernels_->panel_width;
  const int64_t panels = (product.batch + width - 1) / width;
  const CsrView w = view();
  const int64_t steps = (parts_.rows + kRowStep - 1) / kRowStep;
  parallel((parts_.nnz + kRowCost * parts_.rows) * product.batch, panels * steps, [&](int part, int parts) {
    static thread_local Scratch panel_scratch, tile_scratch;
    float* panel = panel_scratch.floats(static_cast<std::size_t>(parts_.columns * width));
    // Spare rows let the ragged edge be transposed whole.
    float* tile = tile_scratch.floats(static_cast<std::size_t>((kChunkRows + kRowStep) * width));
    share_panels(offsets_, kRowCost, kRowStep, panels, part, parts, [&](int64_t p, int64_t begin, int64_t end) {
      const int64_t first = p * width;
      const int64_t tokens = std::min(width, product.batch - first);
      kernels_->pack(product, parts_.columns, first, tokens, panel);
      kernels_->multiply_panel(w, product, panel, first, tokens, begin, end, tile);
    });
  });
}

void Csr::multiply_rows(const Product& product) const {
  const CsrView w = view();
  const int64_t steps = (parts_.rows + kRowStep - 1) / kRowStep;
  parallel((parts_.nnz + kRowCost * parts_.rows) * product.batch, steps, [&](int part, int parts) {
    share_panels(offsets_, kRowCost, kRowStep, 1, part, parts, [&](int64_t, int64_t begin, int64_t end) {
      kernels_->multiply_rows(w, product, begin, end);
    });
  });
}

}  // namespace sparsekit
