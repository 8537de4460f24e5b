// Sparse convolution over panels; see conv_panel.h. Three ways to arrange the kept weights, one per granularity.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/blocks.h"
#include "kernels/conv_panel.h"
#include "kernels/csr.h"

namespace sparsekit {

// Single weights of some rows, in the order in which they are read: a tile of channels after the other, so that the
// part of the panel that a tile reads stays in the first-level cache; in a tile row by row.
struct ConvEntries {
  int64_t first_row, rows, tiles;
  int64_t tile_channels;
  const float* values;
  const uint16_t* lines;   // from the tile's first channel
  const uint16_t* counts;  // of row r in tile t, at t * rows + r
};

// Whole kernels of 3 x 3 weights, chunk of rows by chunk of rows; in each, channel by channel: the lines of a channel
// serve several rows while they are in the first-level cache, and so do the sums of these rows.
struct ConvSlices {
  const float* values;     // 9 of each
  const int32_t* lines;    // of the channel
  const uint16_t* row;     // of the chunk
  const int64_t* offsets;  // kernels before each chunk
  int64_t rows, chunk_rows;
};

// Weights of several rows side by side, block row by block row; in each, group of rows by group of rows.
struct ConvVectors {
  const float* values;     // vector by vector, one value of each row of the group
  const int32_t* lines;    // of each vector
  const int64_t* offsets;  // vectors before each block row
  int64_t rows, block_rows;
};

// Rows that are multiplied together where `left` of a block row are left.
inline int64_t conv_group(int64_t left) { return left >= 4 ? 4 : left >= 2 ? 2 : 1; }

// One strip: its packed input, and where its results go.
struct ConvPanel {
  const ConvLayout* layout;
  const ConvOperands* operands;
  const float* lines;
  int64_t strip;
  int rows;          // output rows to compute; whole kernels compute all of the layout, whose lines they count
  int64_t out_rows;  // of the weight
};

// One entry per instruction set.
struct ConvKernels {
  int width;             // lanes
  int most_rows;         // of a panel
  int most_vector_rows;  // of a panel that vectors of outputs read
  int channels;          // side by side in each lane of a panel's line
  void (*pack)(const ConvLayout&, const ConvOperands&, int64_t strip, float* lines);
  // `sums` is scratch for as many rows as a chunk has, times the layout's rows, vectors.
  void (*multiply_entries)(const ConvEntries&, const ConvPanel&, float* sums);
  // The chunks [begin, end); `sums` as above.
  void (*multiply_slices)(const ConvSlices&, const ConvPanel&, int64_t begin, int64_t end, float* sums);
  void (*multiply_vectors)(const ConvVectors&, const ConvPanel&, int64_t begin, int64_t end);
};

// Layouts by input size, each with what a weight derives from it; safe to use from several threads.
template <class Derived>
class ConvLayouts {
 public:
  struct Entry {
    bool whole_rows;
    ConvLayout layout;
    Derived derived;
  };

  template <class Make>
  std::shared_ptr<const Entry> get(const ConvSize& size, bool whole_rows, Make make) const {
    const std::lock_guard<std::mutex> hold(lock_);
    const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const auto& entry) {
      return entry->layout.size == size && entry->whole_rows == whole_rows;
    });
    if (found != entries_.end()) {
      std::rotate(found, found + 1, entries_.end());  // the one that was used last is dropped last
      return entries_.back();
    }
    if (entries_.size() >= kMost) entries_.erase(entries_.begin());
    entries_.push_back(std::make_shared<const Entry>(make()));
    return entries_.back();
  }

 private:
  static constexpr std::size_t kMost = 16;
  mutable std::mutex lock_;
  mutable std::vector<std::shared_ptr<const Entry>> entries_;
};

// A checked unstructured weight: its own copy, in chunks.
class ConvCsr {
 public:
  ConvCsr(const CsrParts& parts, const ConvShape& shape);
  void multiply(const ConvOperands& operands) const;

 private:
  using Lines = std::vector<uint16_t>;

  template <class Index>
  void fill(const CsrParts& parts, const std::vector<int64_t>& offsets);

  ConvShape shape_;
  int64_t rows_, tiles_, tile_channels_;
  const ConvKernels* kernels_;
  std::vector<float> values_;
  std::vector<uint16_t> columns_;  // inside the tile
  std::vector<uint16_t> counts_;
  std::vector<int64_t> chunk_offsets_;
  ConvLayouts<Lines> layouts_;
};

// A checked weight of blocks: whole kernels, or vectors of outputs.
class ConvBlocks {
 public:
  ConvBlocks(const BlockPlaces& places, const void* values, bool bf16, const ConvShape& shape);
  void multiply(const ConvOperands& operands) const;

 private:
  using Lines = std::vector<int32_t>;

  void fill_slices(const BlockPlaces& places, const std::vector<int64_t>& offsets, const uint32_t* values);
  template <class Bits>
  void fill_vectors(const BlockPlaces& places, const std::vector<int64_t>& offsets, const Bits* values);

  ConvShape shape_;
  int64_t rows_, block_rows_;
  bool slices_;
  int64_t chunk_rows_;         // of slices
  std::vector<uint16_t> row_;  // of each slice, in its chunk
  const ConvKernels* kernels_;
  std::vector<int64_t> offsets_;  // vectors before each block row, or kernels before each chunk
  std::vector<int32_t> columns_;  // of each vector or kernel: its line's channels, times the taps, and the tap
  std::vector<uint32_t> values_;  // bits of fp32, or of two of bfloat16, group of rows by group of rows
  ConvLayouts<Lines> layouts_;
};

}  // namespace sparsekit
