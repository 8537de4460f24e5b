#include "kernels/block_csr.h"

#include <algorithm>

#include "core/check.h"
#include "core/cpu.h"
#include "core/scratch.h"
#include "core/threads.h"
#include "kernels/dispatch.h"
#include "kernels/offsets.h"

namespace sparsekit {

namespace {

// Packed activations that stay in the second-level cache while the weight streams past.
constexpr int64_t kChunkBytes = 512 << 10;
// Fewer tokens than this are read in place: so few rows of x never compete for one set of the first-level cache.
constexpr int64_t kPackFrom = 9;

// Blocks of fewer rows than a vector has lanes run on shorter vectors.
Isa widest_for(int64_t block_rows) { return block_rows % 16 != 0 && block_rows < 32 ? Isa::avx2 : Isa::avx512; }

}  // namespace

BlockCsr::BlockCsr(const Parts& parts) : parts_(parts), kernels_(&best_block_csr(widest_for(parts.block_rows))) {
  check(parts.block_rows > 0 && parts.block_columns > 0, "block_csr: expected block sides of at least 1");
  const int64_t block_rows = (parts.rows + parts.block_rows - 1) / parts.block_rows;
  const int64_t block_columns = (parts.columns + parts.block_columns - 1) / parts.block_columns;
  offsets_ = checked_offsets("block_csr", parts.offsets, parts.wide_offsets, block_rows, parts.blocks);
  for (int64_t i = 0; i < block_rows; ++i)
    for (int64_t b = offsets_[i]; b < offsets_[i + 1]; ++b)
      check(parts.indices[b] >= 0 && parts.indices[b] < block_columns &&
                (b == offsets_[i] || parts.indices[b] > parts.indices[b - 1]),
            "block_csr: block row " + std::to_string(i) + ": expected ascending block columns below " +
                std::to_string(block_columns) + ", got " + std::to_string(parts.indices[b]));
  check(reinterpret_cast<uintptr_t>(parts.values) % 64 == 0, "block_csr: expected values that start on a cache line");
}

void BlockCsr::multiply(const Product& product) const {
  const int64_t width = kernels_->panel_width;
  const int64_t row_bytes = static_cast<int64_t>(sizeof(float)) * std::max<int64_t>(parts_.columns, 1);
  const int64_t chunk = std::max<int64_t>(width, kChunkBytes / row_bytes / width * width);
  const int64_t chunks = (product.batch + chunk - 1) / chunk;
  const BlockCsrView w = {parts_.rows,   parts_.columns, parts_.block_rows, parts_.block_columns,
                          parts_.values, parts_.indices, offsets_.data()};
  const int64_t work = (parts_.blocks + w.rows) * parts_.block_rows * parts_.block_columns * product.batch;
  const int64_t block_rows = static_cast<int64_t>(offsets_.size()) - 1;
  parallel(work, chunks * block_rows, [&](int part, int parts) {
    static thread_local Scratch scratch;
    float* panels = scratch.floats(static_cast<std::size_t>(chunk * parts_.columns));
    share_panels(offsets_, 1, 1, chunks, part, parts, [&](int64_t c, int64_t begin, int64_t end) {
      const int64_t first = c * chunk;
      const int64_t tokens = std::min(chunk, product.batch - first);
      int64_t packed = 0;
      while (tokens - packed >= std::min(width, kPackFrom)) {
        const int64_t taken = std::min(width, tokens - packed);
        kernels_->pack(product, parts_.columns, first + packed, taken, panels + packed * parts_.columns);
        packed += taken;
      }
      kernels_->multiply(w, product, panels, packed, first, tokens, begin, end);
    });
  });
}

}  // namespace sparsekit
