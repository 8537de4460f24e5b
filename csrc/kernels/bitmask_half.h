// A bit per weight, and the kept ones in bfloat16 with sums in fp32: decoded in registers, once for some tokens.
#pragma once

#include <cstdint>
#include <vector>

#include "core/pages.h"
#include "kernels/block_half.h"

namespace sparsekit {

// Outputs that a word of bits holds two neighbouring inputs of.
constexpr int64_t kHalfStrip = 16;

// Where in a word the bit of a weight lies, and after which others its value: by output and then input, so that the
// word is a mask of the lanes that multiply, or by input and then output, so that the lanes of an input see theirs in
// one half of the word.
enum class HalfOrder { by_output, by_input };

// Strips of kHalfStrip outputs; those beyond the last have no bits. A strip is multiplied from its first word to its
// last: bits and values are one stream each.
struct BitmaskHalfView {
  int64_t words;           // of a strip: pairs of inputs
  const uint32_t* bits;    // (strips, words)
  const uint16_t* values;  // in the order of the words; 32 may be read beyond their end
  const int64_t* offsets;  // values before each strip
};

struct BitmaskHalfKernels {
  int tokens;  // of the widest panel
  HalfOrder order;
  // sums[m * stride + i] for the tokens of a panel, packed as BlockHalfKernels::pack does without runs, and the outputs
  // i of the strips [begin, end).
  void (*multiply)(const BitmaskHalfView&, const float* panel, int64_t tokens, int64_t begin, int64_t end, float* sums,
                   int64_t stride);
};

// A packed weight that has been checked and copied into the order in which it is read.
class BitmaskHalf {
 public:
  struct Parts {
    int64_t rows, columns, nnz;
    const uint16_t* values;
    const uint16_t* bits;
    const void* offsets;
    bool wide_offsets;
  };
  explicit BitmaskHalf(const Parts& parts);
  void multiply(const HalfProduct& product) const;

 private:
  // Of nearly equal size; at(i) is the first token of one.
  struct Panels {
    int64_t batch, count;
    int64_t at(int64_t i) const { return batch * i / count; }
  };
  struct Strips {
    int64_t begin, end;
  };

  void fill(const Parts& parts, const std::vector<int64_t>& offsets);
  void fill_strip(const Parts& parts, const std::vector<int64_t>& offsets, int64_t first);
  void multiply_strips(const HalfProduct& product, const Panels& panels, const float* x, const Strips& strips,
                       float* sums) const;

  int64_t rows_, columns_, words_, strips_;
  const BitmaskHalfKernels* kernels_;
  const BlockHalfKernels* packing_;  // of activations
  const ActivationKernels* activations_;
  Paged<uint32_t> bits_;
  Paged<uint16_t> values_;
  std::vector<int64_t> offsets_;
};

}  // namespace sparsekit
