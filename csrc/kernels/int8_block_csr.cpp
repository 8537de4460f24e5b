#include "kernels/int8_block_csr.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/pages.h"
#include "core/scratch.h"
#include "core/threads.h"
#include "kernels/dispatch.h"
#include "kernels/offsets.h"

namespace sparsekit {

namespace {

// Activations in 8 bits that stay in the second-level cache while the weight streams past.
constexpr int64_t kChunkBytes = 256 << 10;
// Sums of so many products of bytes fit into 32 bits.
constexpr int64_t kMostColumns = 1 << 17;
// A dense matrix is cut into block rows of two vectors.
constexpr int64_t kDenseRows = 32;

int64_t rounded_up(int64_t size, int64_t step) { return (size + step - 1) / step * step; }

std::vector<int64_t> one_block_per_row(int64_t rows, int64_t columns) {
  std::vector<int64_t> offsets(static_cast<std::size_t>((rows + kDenseRows - 1) / kDenseRows) + 1);
  for (std::size_t i = 0; i < offsets.size(); ++i) offsets[i] = columns > 0 ? static_cast<int64_t>(i) : 0;
  return offsets;
}

}  // namespace

void check_int8_sizes(int64_t rows, int64_t columns) {
  check(rows >= 0 && columns >= 0,
        "int8: expected sizes of at least 0, got " + std::to_string(rows) + " x " + std::to_string(columns));
  check(columns <= kMostColumns,
        "int8: expected at most " + std::to_string(kMostColumns) + " columns, got " + std::to_string(columns));
}

void check_int8_values(const int8_t* values, int64_t count) {
  check(std::find(values, values + count, INT8_MIN) == values + count,
        "int8: expected integers from -127 to 127, got -128");
}

void check_int8_scales(const float* scales, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r)
    if (!std::isfinite(scales[r]) || scales[r] < 0.0f)
      check(false, "int8: row " + std::to_string(r) + ": expected a finite scale of at least 0, got " +
                       std::to_string(scales[r]));
}

Int8BlockCsr::Int8BlockCsr(const BlockPlaces& places, const int8_t* values, const float* scales)
    : rows_(places.rows),
      columns_(places.columns),
      block_rows_(places.block_rows),
      block_columns_(places.block_columns),
      lanes_(rounded_up(places.block_rows, kInt8Lanes)),
      steps_(places.block_columns / 4),
      kernels_(&best_int8_block_csr()),
      activations_(&best_activation()),
      offsets_(checked_blocks("int8_block_csr", places)) {
  check_int8_sizes(rows_, columns_);
  check_int8_values(values, places.blocks * block_rows_ * block_columns_);
  check(block_columns_ % 4 == 0,
        "int8_block_csr: expected blocks of a multiple of 4 columns, got " + std::to_string(block_columns_));
  padded_ = rounded_up(columns_, block_columns_);
  for (int64_t b = 0; b < places.blocks; ++b) first_steps_.push_back(static_cast<int32_t>(places.indices[b] * steps_));
  place({values, block_rows_ * block_columns_, block_rows_, 1}, scales);
}

Int8BlockCsr::Int8BlockCsr(int64_t rows, int64_t columns, const int8_t* values, const float* scales)
    : rows_(rows),
      columns_(columns),
      block_rows_(kDenseRows),
      block_columns_(columns),
      lanes_(kDenseRows),
      steps_((columns + 3) / 4),
      padded_(rounded_up(columns, 4)),
      kernels_(&best_int8_block_csr()),
      activations_(&best_activation()),
      offsets_(one_block_per_row(rows, columns)) {
  check_int8_sizes(rows, columns);
  check_int8_values(values, rows * columns);
  first_steps_.assign(static_cast<std::size_t>(offsets_.back()), 0);
  place({values, kDenseRows * columns, 1, columns}, scales);
}

void Int8BlockCsr::place(const Int8Source& source, const float* scales) {
  check_int8_scales(scales, rows_);
  const int64_t block_rows = static_cast<int64_t>(offsets_.size()) - 1;
  const std::size_t bytes = static_cast<std::size_t>(offsets_[block_rows] * steps_ * lanes_ * 4);
  values_ = Paged<int8_t>(bytes);
  scales_.assign(static_cast<std::size_t>(block_rows * lanes_), 0.0f);
  starts_.assign(static_cast<std::size_t>(block_rows * lanes_), 0);
  for (int64_t i = 0; i < block_rows; ++i) {
    const int64_t inside = std::min(block_rows_, rows_ - i * block_rows_);
    std::copy(scales + i * block_rows_, scales + i * block_rows_ + inside, scales_.data() + i * lanes_);
    int32_t* starts = starts_.data() + i * lanes_;
    for (int64_t b = offsets_[i]; b < offsets_[i + 1]; ++b)
      for (int64_t k = 0; k < block_columns_; ++k) {
        const int8_t* from = source.values + b * source.block + k * source.column;
        int8_t* to = values_.data() + (b * steps_ + k / 4) * lanes_ * 4 + k % 4;
        for (int64_t r = 0; r < inside; ++r) {
          to[4 * r] = from[r * source.row];
          starts[r] -= kernels_->offset * from[r * source.row];
        }
      }
  }
}

void Int8BlockCsr::multiply(const Product& product) const {
  static thread_local Scratch shared;
  // Each thread multiplies the tokens that it has rounded, where there are enough for all threads.
  const int64_t fitting = kChunkBytes / std::max<int64_t>(padded_, 1), threads = omp_get_max_threads();
  const int64_t chunk =
      even_chunk(product.batch, std::min(fitting, (product.batch + threads - 1) / threads), kInt8Panel);
  const int64_t panels = (product.batch + kInt8Panel - 1) / kInt8Panel;
  const int64_t panel_bytes = rounded_up(padded_ * kInt8Panel, 64);
  float* steps = shared.floats(static_cast<std::size_t>(panels * kInt8Panel + panels * panel_bytes / 4));
  uint8_t* all = reinterpret_cast<uint8_t*>(steps + panels * kInt8Panel);
  parallel(product.batch * padded_, panels, [&](int part, int parts) {
    static thread_local Scratch own;
    uint8_t* rows = reinterpret_cast<uint8_t*>(own.floats(static_cast<std::size_t>(panel_bytes / 4)));
    for (int64_t p = panels * part / parts; p < panels * (part + 1) / parts; ++p) {
      const int64_t first = p * kInt8Panel;
      kernels_->quantize(product, columns_, padded_, first, std::min<int64_t>(kInt8Panel, product.batch - first), rows,
                         all + p * panel_bytes, steps + first);
    }
  });
  const Int8BlocksView w = {rows_,           block_rows_,    lanes_,        steps_, values_.data(), first_steps_.data(),
                            offsets_.data(), scales_.data(), starts_.data()};
  const int64_t block_rows = static_cast<int64_t>(offsets_.size()) - 1;
  const int64_t work = (offsets_[block_rows] + rows_) * lanes_ * steps_ * product.batch;
  parallel(work, product.batch * block_rows, [&](int part, int parts) {
    const auto multiply = [&](int64_t first, int64_t tokens, int64_t begin, int64_t end) {
      kernels_->multiply(w, product,
                         {all + first / kInt8Panel * panel_bytes, panel_bytes, padded_, steps + first, first, tokens},
                         begin, end);
      product.finish(*activations_, rows_, first, first + tokens, begin * block_rows_,
                     std::min(end * block_rows_, rows_));
    };
    share_chunks(offsets_, 1, 1, product.batch, chunk, part, parts, multiply);
  });
}

}  // namespace sparsekit
