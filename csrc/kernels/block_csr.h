// Compressed sparse rows of blocks, the output index fastest inside a block.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/blocks.h"
#include "kernels/product.h"

namespace sparsekit {

struct BlockCsrView {
  int64_t rows, columns;
  int64_t block_rows, block_columns;
  const float* values;     // (blocks, block_columns, block_rows), on a cache line
  const int32_t* indices;  // block column of each block, ascending in a block row
  const int64_t* offsets;  // block rows + 1
};

struct BlockCsrKernels {
  int panel_width;  // tokens that are multiplied side by side

  // panel[k * panel_width + m] = x[first + m][k] for `tokens` tokens, zero beyond.
  void (*pack)(const Product&, int64_t columns, int64_t first, int64_t tokens, float* panel);
  // y for `tokens` tokens from `first` on and the block rows [begin, end). `panels` holds their whole panels one after
  // another; tokens beyond the packed ones are read from x.
  void (*multiply)(const BlockCsrView&, const Product&, const float* panels, int64_t packed, int64_t first,
                   int64_t tokens, int64_t begin, int64_t end);
};

// A packed weight that has been checked, ready to multiply. Does not own values and indices.
class BlockCsr {
 public:
  BlockCsr(const BlockPlaces& places, const float* values);
  void multiply(const Product& product) const;

 private:
  BlockPlaces places_;
  const float* values_;
  const BlockCsrKernels* kernels_;
  const ActivationKernels* activations_;
  std::vector<int64_t> offsets_;
};

}  // namespace sparsekit
