#include "kernels/block_csr.h"

#include <algorithm>

#include "core/check.h"
#include "core/scratch.h"
#include "core/threads.h"
#include "kernels/blocks.h"
#include "kernels/dispatch.h"
#include "kernels/offsets.h"

namespace sparsekit {

namespace {

// Packed activations that stay in the second-level cache while the weight streams past: a quarter of it, or the weight
// drives them out.
constexpr int64_t kChunkBytes = 256 << 10;
// Fewer tokens than this are read in place: so few rows of x never compete for one set of the first-level cache.
constexpr int64_t kPackFrom = 7;

}  // namespace

BlockCsr::BlockCsr(const BlockPlaces& places, const float* values)
    : places_(places),
      values_(values),
      kernels_(&best_block_csr(widest_for(places.block_rows))),
      activations_(&best_activation()),
      offsets_(checked_blocks("block_csr", places)) {
  check(reinterpret_cast<uintptr_t>(values) % 64 == 0, "block_csr: expected values that start on a cache line");
}

void BlockCsr::multiply(const Product& product) const {
  const int64_t width = kernels_->panel_width;
  const int64_t row_bytes = static_cast<int64_t>(sizeof(float)) * std::max<int64_t>(places_.columns, 1);
  const int64_t chunk = even_chunk(product.batch, kChunkBytes / row_bytes, width);
  const BlockCsrView w = {places_.rows, places_.columns, places_.block_rows, places_.block_columns,
                          values_,      places_.indices, offsets_.data()};
  const int64_t work = (places_.blocks + w.rows) * places_.block_rows * places_.block_columns * product.batch;
  const int64_t block_rows = static_cast<int64_t>(offsets_.size()) - 1;
  parallel(work, product.batch * block_rows, [&](int part, int parts) {
    static thread_local Scratch scratch;
    float* panels = scratch.floats(static_cast<std::size_t>(chunk * places_.columns));
    const auto multiply = [&](int64_t first, int64_t tokens, int64_t begin, int64_t end) {
      int64_t packed = 0;
      while (tokens - packed >= std::min(width, kPackFrom)) {
        const int64_t taken = std::min(width, tokens - packed);
        kernels_->pack(product, places_.columns, first + packed, taken, panels + packed * places_.columns);
        packed += taken;
      }
      kernels_->multiply(w, product, panels, packed, first, tokens, begin, end);
      product.finish(*activations_, w.rows, first, first + tokens, begin * w.block_rows,
                     std::min(end * w.block_rows, w.rows));
    };
    share_chunks(offsets_, 1, 1, product.batch, chunk, part, parts, multiply);
  });
}

}  // namespace sparsekit
