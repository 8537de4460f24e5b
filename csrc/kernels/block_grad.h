// The gradients of y = x W^T for a block CSR weight W: of x, and of the stored values.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/blocks.h"

namespace sparsekit {

// The gradient of x: grad W.
struct SpreadProduct {
  const float* grad;  // (batch, rows); a row is contiguous
  int64_t grad_stride;
  int64_t batch;
  const float* values;  // (blocks, block_columns, block_rows), contiguous
  float* x;             // (batch, columns), contiguous
};

// The gradient of the values: grad^T x at the blocks only,
// values[b][k][r] = sum over m of grad[m][row of b + r] * x[m][column of b + k].
struct SampledProduct {
  const float* grad;  // (batch, rows); a row is contiguous
  int64_t grad_stride;
  const float* x;  // (batch, columns); a row is contiguous
  int64_t x_stride;
  int64_t batch;
  float* values;  // (blocks, block_columns, block_rows), contiguous; 0 beyond the matrix
};

// One block row and the tokens of one vector: x[offsets[s] + t] += values[s * lanes + r] * grad[r * width + t].
struct SpreadRow {
  const float* grad;  // aligned
  const float* values;
  const int64_t* offsets;  // of the inputs, in the order in which their values are stored
  int64_t slots;           // inputs
  int64_t lanes;           // outputs of a block
  int64_t inside;          // of these, those inside the matrix
  float* x;                // aligned
};

// Inputs of one block row and the tokens of a chunk: values[s * lanes + r] = sum of grad[m * lanes + r] *
// x[offsets[s] + m], added to what is there if `add`.
struct SampledRow {
  const float* grad;  // as many floats as two vectors have may be read beyond its end
  const float* x;
  const int64_t* offsets;
  int64_t slots;
  int64_t lanes;
  int64_t tokens;  // a multiple of 8
  float* values;
  bool add;
};

struct BlockGradKernels {
  int width;  // tokens of a vector
  // to[k * width + m] = x[m][k] for m < tokens, 0 for tokens <= m < width; width is a multiple of 16 or a vector's.
  void (*turn)(const float* x, int64_t x_stride, int64_t columns, int64_t tokens, int64_t width, float* to);
  // to[t * columns + k] = from[k * width + t] for t < tokens, of one vector.
  void (*turn_back)(const float* from, int64_t columns, int64_t tokens, float* to);
  void (*spread)(const SpreadRow&);
  void (*sample)(const SampledRow&);
};

// The places of the blocks, checked; owns what it needs of them.
class BlockGrad {
 public:
  explicit BlockGrad(const BlockPlaces& places);
  void spread(const SpreadProduct& product) const;
  void sample(const SampledProduct& product) const;

 private:
  struct Chunk;
  void spread_tokens(const SpreadProduct& product, int64_t first, int64_t count) const;
  void lay_out(const SampledProduct& product, int64_t first, Chunk& chunk) const;
  void sample_chunk(const Chunk& chunk) const;
  void clear_edges(float* values) const;
  int64_t list_inputs(int64_t begin, int64_t end, int64_t pitch, int64_t* inputs) const;
  int64_t block_rows() const { return static_cast<int64_t>(offsets_.size()) - 1; }

  BlockPlaces places_;  // without its pointers
  const BlockGradKernels *spread_, *sample_;
  std::vector<int64_t> offsets_;
  std::vector<int32_t> indices_;
};

}  // namespace sparsekit
