#include <algorithm>

#include "core/scratch.h"
#include "kernels/conv.h"
#include "kernels/conv_shares.h"
#include "kernels/dispatch.h"

namespace sparsekit {

namespace {

// Work of a block row beside its weights, in units of vectors or kernels.
constexpr int64_t kRowCost = 2;

// Rows of a chunk of slices, whose sums take most of the first-level cache.
constexpr int64_t kChunkRows = 64;

}  // namespace

ConvBlocks::ConvBlocks(const BlockPlaces& places, const void* values, bool bf16, const ConvShape& shape)
    : shape_(shape),
      rows_(places.rows),
      block_rows_(places.block_rows),
      kernels_(bf16 ? &best_conv_bf16() : &best_conv()) {
  check_shape("block_csr", shape, places.rows, places.columns);
  check(shape.groups == 1, "block_csr: expected one group");
  const std::vector<int64_t> offsets = checked_blocks("block_csr", places);
  const auto squared = [](const int64_t* pair, int64_t most) { return pair[0] == pair[1] && pair[0] <= most; };
  // Whole 3 x 3 kernels of one output each have a way of their own.
  slices_ = !bf16 && block_rows_ == 1 && places.block_columns == 9 && shape.kernel[0] == 3 && shape.kernel[1] == 3 &&
            squared(shape.stride, 2) && squared(shape.dilation, 1);
  if (slices_)
    fill_slices(places, offsets, static_cast<const uint32_t*>(values));
  else if (bf16)
    fill_vectors(places, offsets, static_cast<const uint16_t*>(values));
  else
    fill_vectors(places, offsets, static_cast<const uint32_t*>(values));
}

void ConvBlocks::fill_slices(const BlockPlaces& places, const std::vector<int64_t>& offsets, const uint32_t* values) {
  // At stride 2 an output row reads twice the lines, which the second-level cache would deliver too slowly for each
  // row: then the rows of a chunk share them.
  chunk_rows_ = shape_.stride[0] == 1 ? 1 : kChunkRows;
  for (int64_t first = 0; first < rows_; first += chunk_rows_) {
    offsets_.push_back(static_cast<int64_t>(columns_.size()));
    std::vector<int64_t> order;
    const int64_t last = std::min(rows_, first + chunk_rows_);
    for (int64_t p = offsets[first]; p < offsets[last]; ++p) order.push_back(p);
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return places.indices[a] < places.indices[b]; });
    for (const int64_t p : order) {
      columns_.push_back(places.indices[p] * 9);
      values_.insert(values_.end(), values + p * 9, values + p * 9 + 9);
      row_.push_back(
          static_cast<uint16_t>(std::upper_bound(offsets.begin(), offsets.end(), p) - offsets.begin() - 1 - first));
    }
  }
  offsets_.push_back(static_cast<int64_t>(columns_.size()));
}

template <class Bits>
void ConvBlocks::fill_vectors(const BlockPlaces& places, const std::vector<int64_t>& offsets, const Bits* values) {
  const int64_t size = places.block_rows * places.block_columns, taps = shape_.taps(), together = kernels_->channels;
  offsets_.push_back(0);
  for (std::size_t row = 0; row + 1 < offsets.size(); ++row) {
    const int64_t height = std::min(block_rows_, rows_ - static_cast<int64_t>(row) * block_rows_);
    // Calls each(column of panels, first value, which of the channels of a line) for the columns of this block row.
    const auto for_columns = [&](auto each) {
      for (int64_t b = offsets[row]; b < offsets[row + 1]; ++b) {
        const int64_t first = places.indices[b] * places.block_columns;
        for (int64_t k = 0; k < places.block_columns && first + k < places.columns; ++k) {
          const int64_t channel = (first + k) / taps;
          each(static_cast<int32_t>(channel / together * taps + (first + k) % taps),
               values + b * size + k * block_rows_, channel % together);
        }
      }
    };
    std::vector<int32_t> columns;
    for_columns([&](int32_t column, const Bits*, int64_t) { columns.push_back(column); });
    std::sort(columns.begin(), columns.end());
    columns.erase(std::unique(columns.begin(), columns.end()), columns.end());
    std::vector<uint32_t> cells(columns.size() * static_cast<std::size_t>(height));
    for_columns([&](int32_t column, const Bits* from, int64_t half) {
      const int64_t at = std::lower_bound(columns.begin(), columns.end(), column) - columns.begin();
      for (int64_t r = 0; r < height; ++r) cells[at * height + r] |= static_cast<uint32_t>(from[r]) << (16 * half);
    });
    for (int64_t r = 0; r < height; r += conv_group(height - r))
      for (std::size_t p = 0; p < columns.size(); ++p)
        for (int64_t i = 0; i < conv_group(height - r); ++i) values_.push_back(cells[p * height + r + i]);
    columns_.insert(columns_.end(), columns.begin(), columns.end());
    offsets_.push_back(static_cast<int64_t>(columns_.size()));
  }
}

void ConvBlocks::multiply(const ConvOperands& operands) const {
  const auto entry = layouts_.get(operands.size, operands.whole_rows(), [&] {
    const int rows = slices_ ? kernels_->most_rows : kernels_->most_vector_rows;
    ConvLayout layout(shape_, operands.size, operands.whole_rows(), kernels_->width, rows);
    Lines lines(columns_.size());
    const int64_t taps = shape_.taps();
    for (std::size_t p = 0; p < lines.size(); ++p)
      lines[p] = static_cast<int32_t>(columns_[p] / taps * layout.channel_lines +
                                      (slices_ ? 0 : layout.tap_line(columns_[p] % taps)));
    return ConvLayouts<Lines>::Entry{operands.whole_rows(), std::move(layout), std::move(lines)};
  });
  const ConvLayout& layout = entry->layout;
  const int64_t adds = slices_ ? 9 : block_rows_ * kernels_->channels;  // of one kernel or vector and pixel
  share_strips(layout, *kernels_, operands, rows_, offsets_, kRowCost * (slices_ ? chunk_rows_ : 1), adds,
               [&](const ConvPanel& panel, int64_t begin, int64_t end) {
                 const float* values = reinterpret_cast<const float*>(values_.data());
                 const int32_t* lines = entry->derived.data();
                 if (!slices_)
                   return kernels_->multiply_vectors({values, lines, offsets_.data(), rows_, block_rows_}, panel, begin,
                                                     end);
                 static thread_local Scratch scratch;
                 float* sums = scratch.floats(static_cast<std::size_t>(chunk_rows_ * layout.rows * layout.width));
                 kernels_->multiply_slices({values, lines, row_.data(), offsets_.data(), rows_, chunk_rows_}, panel,
                                           begin, end, sums);
               });
}

}  // namespace sparsekit
