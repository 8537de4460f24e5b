#include <algorithm>
#include <cmath>

#include "core/scratch.h"
#include "kernels/conv.h"
#include "kernels/conv_shares.h"
#include "kernels/dispatch.h"

namespace sparsekit {

namespace {

// Work of a row beside its entries, in entries: its sums are read and written in every tile, and stored once.
constexpr int64_t kRowCost = 4;
// Rows of a chunk: their sums, of 8 vectors each, take as much of the first-level cache as the tile.
constexpr int64_t kConvChunkRows = 64;

// Channels of a tile: so many that a row has about 10 entries in it; more would leave the first-level cache early.
int64_t channels_per_tile(const ConvShape& shape, int64_t rows, int64_t entries) {
  constexpr double kEntries = 10;
  const double in_row = static_cast<double>(entries) / static_cast<double>(std::max<int64_t>(1, rows));
  // A line of a tile has 16 bits, and so has a column.
  const int64_t lines = std::max(shape.kernel[1] * shape.most_column_lines(), shape.taps());
  const int64_t most = std::max<int64_t>(1, 65535 / lines);
  const int64_t least = (shape.channels + most - 1) / most;
  const int64_t tiles = std::clamp<int64_t>(std::llround(in_row / kEntries), least, shape.channels);
  return (shape.channels + tiles - 1) / tiles;
}

}  // namespace

ConvCsr::ConvCsr(const CsrParts& parts, const ConvShape& shape)
    : shape_(shape), rows_(parts.rows), kernels_(&best_conv()) {
  check_shape("csr", shape, parts.rows, parts.columns);
  const std::vector<int64_t> offsets = checked_csr(parts);
  tile_channels_ = channels_per_tile(shape, rows_, parts.nnz);
  tiles_ = (shape.channels + tile_channels_ - 1) / tile_channels_;
  if (parts.wide_indices)
    fill<int32_t>(parts, offsets);
  else
    fill<uint16_t>(parts, offsets);
}

template <class Index>
void ConvCsr::fill(const CsrParts& parts, const std::vector<int64_t>& offsets) {
  const Index* columns = static_cast<const Index*>(parts.indices);
  const int64_t taps = shape_.taps();
  const int64_t group_rows = std::max<int64_t>(1, rows_ / shape_.groups);
  values_.reserve(static_cast<std::size_t>(parts.nnz));
  columns_.reserve(static_cast<std::size_t>(parts.nnz));
  std::vector<int64_t> next(offsets.begin(), offsets.end() - 1);
  for (int64_t first = 0; first < rows_; first += kConvChunkRows) {
    chunk_offsets_.push_back(static_cast<int64_t>(values_.size()));
    const int64_t last = std::min(rows_, first + kConvChunkRows);
    for (int64_t t = 0; t < tiles_; ++t) {
      for (int64_t n = first; n < last; ++n) {
        // Columns of a group count from its first channel.
        const int64_t origin = n / group_rows * (shape_.channels / shape_.groups) * taps;
        const int64_t begin = t * tile_channels_ * taps, end = begin + tile_channels_ * taps;
        const int64_t from = next[n];
        for (; next[n] < offsets[n + 1] && origin + static_cast<int64_t>(columns[next[n]]) < end; ++next[n]) {
          values_.push_back(parts.values[next[n]]);
          columns_.push_back(static_cast<uint16_t>(origin + static_cast<int64_t>(columns[next[n]]) - begin));
        }
        counts_.push_back(static_cast<uint16_t>(next[n] - from));
      }
    }
  }
  chunk_offsets_.push_back(static_cast<int64_t>(values_.size()));
}

void ConvCsr::multiply(const ConvOperands& operands) const {
  const auto entry = layouts_.get(operands.size, operands.whole_rows(), [&] {
    ConvLayout layout(shape_, operands.size, operands.whole_rows(), kernels_->width, kernels_->most_rows);
    Lines lines(columns_.size());
    const int64_t taps = shape_.taps();
    for (std::size_t p = 0; p < lines.size(); ++p)
      lines[p] = static_cast<uint16_t>(columns_[p] / taps * layout.channel_lines + layout.tap_line(columns_[p] % taps));
    return ConvLayouts<Lines>::Entry{operands.whole_rows(), std::move(layout), std::move(lines)};
  });
  const ConvLayout& layout = entry->layout;
  share_strips(layout, *kernels_, operands, rows_, chunk_offsets_, kRowCost * kConvChunkRows, 1,
               [&](const ConvPanel& panel, int64_t begin, int64_t end) {
                 static thread_local Scratch scratch;
                 float* sums = scratch.floats(static_cast<std::size_t>(kConvChunkRows * layout.rows * layout.width));
                 for (int64_t c = begin; c < end; ++c) {
                   const int64_t first = c * kConvChunkRows, at = chunk_offsets_[c];
                   kernels_->multiply_entries(
                       {first, std::min(kConvChunkRows, rows_ - first), tiles_, tile_channels_, values_.data() + at,
                        entry->derived.data() + at, counts_.data() + first * tiles_},
                       panel, sums);
                 }
               });
}

}  // namespace sparsekit
