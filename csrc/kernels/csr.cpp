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
// Activations kept in the second-level cache while chunks of the weight pass.
constexpr int64_t kGroupBytes = 512 << 10;

// Columns per tile: so many that a row has about 20 entries in it; more would leave the first-level cache early.
int64_t columns_per_tile(int64_t columns, double density) {
  constexpr double kEntries = 20;
  constexpr int64_t kMost = 1 << 14;  // a 16-bit count and column suffice
  int64_t tile = 64;
  while (tile < std::min(columns, kMost) && static_cast<double>(tile) * density < kEntries) tile *= 2;
  return tile;
}

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

CsrPanels::CsrPanels(const CsrParts& parts)
    : rows_(parts.rows), columns_(parts.columns), kernels_(&best_csr()), activations_(&best_activation()) {
  const std::vector<int64_t> offsets = checked_csr(parts);
  const double cells = static_cast<double>(rows_) * static_cast<double>(columns_);
  tile_columns_ = columns_per_tile(columns_, cells > 0 ? static_cast<double>(parts.nnz) / cells : 1.0);
  tiles_ = (columns_ + tile_columns_ - 1) / tile_columns_;
  // Narrow weights get smaller chunks, so that there are enough to share.
  chunk_rows_ = rows_ >= 16 * kChunkRows ? kChunkRows : kChunkRows / 4;
  if (parts.wide_indices)
    fill<int32_t>(parts, offsets);
  else
    fill<uint16_t>(parts, offsets);
}

template <class Index>
void CsrPanels::fill(const CsrParts& parts, const std::vector<int64_t>& offsets) {
  const Index* columns = static_cast<const Index*>(parts.indices);
  values_.reserve(static_cast<std::size_t>(parts.nnz));
  indices_.reserve(static_cast<std::size_t>(parts.nnz));
  counts_.reserve(static_cast<std::size_t>(rows_ * tiles_));
  std::vector<int64_t> next(offsets.begin(), offsets.end() - 1);
  for (int64_t first = 0; first < rows_; first += chunk_rows_) {
    chunk_offsets_.push_back(static_cast<int64_t>(values_.size()));
    const int64_t last = std::min(rows_, first + chunk_rows_);
    for (int64_t t = 0; t < tiles_; ++t) {
      for (int64_t n = first; n < last; ++n) {
        const int64_t from = next[n];
        for (; next[n] < offsets[n + 1] && static_cast<int64_t>(columns[next[n]]) < (t + 1) * tile_columns_;
             ++next[n]) {
          values_.push_back(parts.values[next[n]]);
          indices_.push_back(static_cast<uint16_t>(static_cast<int64_t>(columns[next[n]]) - t * tile_columns_));
        }
        counts_.push_back(static_cast<uint16_t>(next[n] - from));
      }
    }
  }
  chunk_offsets_.push_back(static_cast<int64_t>(values_.size()));
}

CsrChunk CsrPanels::chunk(int64_t index) const {
  const int64_t first = index * chunk_rows_;
  const int64_t entries = chunk_offsets_[index];
  return {first,
          std::min(chunk_rows_, rows_ - first),
          tiles_,
          tile_columns_,
          values_.data() + entries,
          indices_.data() + entries,
          counts_.data() + first * tiles_};
}

void CsrPanels::multiply(const Product& product) const {
  const int64_t width = kernels_->panel_width;
  const int64_t panel_size = width * std::max<int64_t>(columns_, 1);
  const int64_t group_panels = std::max<int64_t>(1, kGroupBytes / (4 * panel_size));
  const int64_t group = group_panels * width;
  const int64_t groups = (product.batch + group - 1) / group;
  const int64_t chunks = static_cast<int64_t>(chunk_offsets_.size()) - 1;
  const int64_t chunk_cost = kRowCost * chunk_rows_;
  const int64_t work = (chunk_offsets_[chunks] + kRowCost * rows_) * product.batch;
  parallel(work, groups * chunks, [&](int part, int parts) {
    static thread_local Scratch panel_scratch, sum_scratch;
    float* panels = panel_scratch.floats(static_cast<std::size_t>(group_panels * panel_size));
    float* sums = sum_scratch.floats(static_cast<std::size_t>((kChunkRows + kSpareRows) * width));
    share_panels(chunk_offsets_, chunk_cost, 1, groups, part, parts, [&](int64_t g, int64_t begin, int64_t end) {
      const int64_t last = std::min((g + 1) * group, product.batch);
      for (int64_t m = g * group; m < last; m += width)
        kernels_->pack(product, columns_, m, std::min(width, last - m), panels + (m - g * group) * columns_);
      for (int64_t c = begin; c < end; ++c) {
        const CsrChunk rows = chunk(c);
        for (int64_t m = g * group; m < last; m += width) {
          const int64_t tokens = std::min(width, last - m);
          kernels_->multiply_chunk(rows, product, rows_, panels + (m - g * group) * columns_, m, tokens, sums);
          product.finish(*activations_, rows_, m, m + tokens, rows.first_row, rows.first_row + rows.rows);
        }
      }
    });
  });
}

}  // namespace sparsekit
