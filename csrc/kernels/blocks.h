// What the kernels for blocks share: where the blocks lie, and the instruction set for their height.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/check.h"
#include "core/cpu.h"
#include "kernels/offsets.h"

namespace sparsekit {

// The structure of a block CSR matrix.
struct BlockPlaces {
  int64_t rows, columns;
  int64_t block_rows, block_columns, blocks;
  const int32_t* indices;  // block column of each block
  const void* offsets;     // block rows + 1
  bool wide_offsets;
};

// Blocks of fewer rows than a vector has lanes run on shorter vectors.
inline Isa widest_for(int64_t block_rows) { return block_rows % 16 != 0 && block_rows < 32 ? Isa::avx2 : Isa::avx512; }

// A 64-bit copy of the offsets; refused unless they rise, and the block columns of each block row ascend inside the
// matrix.
inline std::vector<int64_t> checked_blocks(const std::string& format, const BlockPlaces& places) {
  check(places.block_rows > 0 && places.block_columns > 0, format + ": expected block sides of at least 1");
  const int64_t block_rows = (places.rows + places.block_rows - 1) / places.block_rows;
  const int64_t block_columns = (places.columns + places.block_columns - 1) / places.block_columns;
  const auto offsets = checked_offsets(format, places.offsets, places.wide_offsets, block_rows, places.blocks);
  for (int64_t i = 0; i < block_rows; ++i)
    for (int64_t b = offsets[i]; b < offsets[i + 1]; ++b)
      if (places.indices[b] < 0 || places.indices[b] >= block_columns ||
          (b > offsets[i] && places.indices[b] <= places.indices[b - 1]))
        check(false, format + ": block row " + std::to_string(i) + ": expected ascending block columns below " +
                         std::to_string(block_columns) + ", got " + std::to_string(places.indices[b]));
  return offsets;
}

}  // namespace sparsekit
