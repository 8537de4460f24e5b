// y = x W^T + bias where W keeps two of every four columns. Pointers are to device memory, unless told otherwise.
#pragma once

#include <cstdint>

namespace sparsekit::cuda {

// The weight in panels, see nm_places.h; rows are padded to whole tiles and columns to whole blocks with zeros.
struct NmWeight {
  const void* panels;
  int64_t rows, columns;
  bool bf16;  // else fp16
};

// A row of x is contiguous, starts on a multiple of 16 bytes and is `x_stride` values away from the next.
struct NmProduct {
  const void* x;
  int64_t batch, x_stride;
  const void* bias;  // (rows,) or null
  void* y;           // (batch, rows), contiguous
};

// How the work is cut: tokens of a tile, and parts of the columns that different blocks sum. The sums of more than one
// part go to `partial` (splits, batch, rows) and are added in the order of the parts, so that results never vary.
struct NmLaunch {
  int tokens, splits;
  float* partial;
  int multiprocessors;
  void* stream;
};

// mma.sp, from sm_80 on: tiles of 8, 32 or 64 tokens.
void nm_mma(const NmWeight& weight, const NmProduct& product, const NmLaunch& cut);

// wgmma.sp, sm_90a: tiles of 128 or 256 tokens.
void nm_wgmma(const NmWeight& weight, const NmProduct& product, const NmLaunch& cut);

// How many tiles and blocks of columns there are. Errors in words where a kernel could not count them, or where a part
// would be empty.
struct NmCounts {
  uint32_t row_tiles, token_tiles, blocks, items;  // an item is a tile over one part of the columns
};
NmCounts nm_counts(const NmWeight& weight, const NmProduct& product, const NmLaunch& cut, int block_columns);

// y = bias + the sum of the parts.
void nm_sum_parts(const NmWeight& weight, const NmProduct& product, const NmLaunch& cut);

}  // namespace sparsekit::cuda
