// Compressed sparse rows: an unstructured weight, one row per output.
#pragma once

#include <cstdint>
#include <vector>

#include "core/cpu.h"
#include "kernels/product.h"

namespace sparsekit {

// A view of a packed weight. Rows are also cut into column tiles, so that the part of the activation panel that a
// tile reads stays in the first-level cache: row n, tile t holds the entries
// [offsets[n] + cuts[n * (tiles + 1) + t], offsets[n] + cuts[n * (tiles + 1) + t + 1]).
struct CsrView {
  int64_t rows;
  int64_t columns;
  int64_t tiles;
  const float* values;
  const void* indices;      // uint16_t or int32_t, ascending in each row
  bool wide_indices;        // int32_t
  const int64_t* offsets;   // rows + 1
  const uint32_t* cuts;     // rows * (tiles + 1)
};

// One entry per instruction set. Functions handle rows [begin, end) of one weight.
struct CsrKernels {
  int panel_width;  // tokens in a full panel

  // panel[k * panel_width' + m] = x[first + m][k] for `tokens` tokens, zero beyond; panel_width' = panel_tokens(tokens).
  void (*pack)(const Product&, int64_t columns, int64_t first, int64_t tokens, float* panel);
  // Columns of the panel that `tokens` tokens take: the narrowest width with a kernel.
  int (*panel_tokens)(int64_t tokens);
  // y[first + m][n] for the tokens in the panel; `tile` is scratch for kChunkRows * panel_width floats.
  void (*multiply_panel)(const CsrView&, const Product&, const float* panel, int64_t first, int64_t tokens,
                         int64_t begin, int64_t end, float* tile);
  // y[m][n] for every token, one dot product at a time.
  void (*multiply_rows)(const CsrView&, const Product&, int64_t begin, int64_t end);
};

// Rows whose outputs stay in scratch while the column tiles pass; a multiple of every vector width.
constexpr int64_t kChunkRows = 128;

// A packed weight that has been checked, ready to multiply. Does not own values and indices.
class Csr {
 public:
  struct Parts {
    int64_t rows, columns, nnz;
    const float* values;
    const void* indices;
    bool wide_indices;
    const void* offsets;
    bool wide_offsets;
  };
  explicit Csr(const Parts& parts);
  void multiply_panels(const Product& product) const;
  void multiply_rows(const Product& product) const;

 private:
  CsrView view() const;

  Parts parts_;
  const CsrKernels* kernels_;
  int64_t tiles_ = 0;
  std::vector<int64_t> offsets_;
  std::vector<uint32_t> cuts_;
};

}  // namespace sparsekit
