#include <algorithm>

#include "kernels/conv.h"
#include "kernels/conv_shares.h"
#include "kernels/dispatch.h"

namespace sparsekit {

namespace {

// Work of a block row beside its weights, in units of vectors or kernels.
constexpr int64_t kRowCost = 2;

}  // namespace

ConvBlocks::ConvBlocks(const BlockPlaces& places, const float* values, const ConvShape& shape)
    : shape_(shape), rows_(places.rows), block_rows_(places.block_rows), kernels_(&best_conv()) {
  check_shape("block_csr", shape, places.rows, places.columns);
  check(shape.groups == 1, "block_csr: expected one group");
  const std::vector<int64_t> offsets = checked_blocks("block_csr", places);
  const auto squared = [](const int64_t* pair, int64_t most) { return pair[0] == pair[1] && pair[0] <= most; };
  // Whole 3 x 3 kernels of one output each have a way of their own.
  slices_ = block_rows_ == 1 && places.block_columns == 9 && shape.kernel[0] == 3 && shape.kernel[1] == 3 &&
            squared(shape.stride, 2) && squared(shape.dilation, 1);
  const int64_t size = places.block_rows * places.block_columns;
  offsets_.push_back(0);
  for (std::size_t row = 0; row + 1 < offsets.size(); ++row) {
    for (int64_t b = offsets[row]; b < offsets[row + 1]; ++b) {
      const int64_t column = places.indices[b] * places.block_columns;
      const int64_t inside = slices_ ? 1 : std::min(places.block_columns, places.columns - column);
      for (int64_t k = 0; k < inside; ++k) columns_.push_back(static_cast<int32_t>(column + k));
    }
    offsets_.push_back(static_cast<int64_t>(columns_.size()));
    if (slices_) continue;
    const int64_t height = std::min(block_rows_, rows_ - static_cast<int64_t>(row) * block_rows_);
    for (int64_t r = 0; r < height;) {
      const int64_t high = conv_group(height - r);
      for (int64_t b = offsets[row]; b < offsets[row + 1]; ++b) {
        const int64_t column = places.indices[b] * places.block_columns;
        for (int64_t k = 0; k < std::min(places.block_columns, places.columns - column); ++k)
          for (int64_t i = 0; i < high; ++i) values_.push_back(values[b * size + k * block_rows_ + r + i]);
      }
      r += high;
    }
  }
  if (slices_) values_.assign(values, values + places.blocks * size);
}

void ConvBlocks::multiply(const ConvOperands& operands) const {
  const auto entry = layouts_.get(operands.size, operands.whole_rows(), [&] {
    ConvLayout layout(shape_, operands.size, operands.whole_rows(), kernels_->width, kernels_->most_rows);
    Lines lines(columns_.size());
    const int64_t taps = shape_.taps();
    for (std::size_t p = 0; p < lines.size(); ++p)
      lines[p] = static_cast<int32_t>(columns_[p] / taps * layout.channel_lines +
                                      (slices_ ? 0 : layout.tap_line(columns_[p] % taps)));
    return ConvLayouts<Lines>::Entry{operands.whole_rows(), std::move(layout), std::move(lines)};
  });
  share_strips(entry->layout, *kernels_, operands, rows_, offsets_, kRowCost, 1,
               [&](const ConvPanel& panel, int64_t begin, int64_t end) {
                 const float* values = values_.data();
                 const int32_t* lines = entry->derived.data();
                 if (slices_)
                   kernels_->multiply_slices({values, lines, offsets_.data()}, panel, begin, end);
                 else
                   kernels_->multiply_vectors({values, lines, offsets_.data(), rows_, block_rows_}, panel, begin, end);
               });
}

}  // namespace sparsekit
