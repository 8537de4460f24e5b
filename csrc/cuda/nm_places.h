// Where things lie in the 2:4 kernels: sizes and index arithmetic that kernels, host code and tests share.
//
// Weights W (rows, columns) are the sparse operand A of the tensor cores and tokens x (batch, columns) the dense
// operand B, so an instruction computes a tile of Y^T. "Column" counts columns of W; two of four are stored.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define SPARSEKIT_HOST_DEVICE __host__ __device__
#else
#define SPARSEKIT_HOST_DEVICE
#endif

namespace sparsekit::cuda {

constexpr int kTileRows = 128;  // outputs that a thread block computes

struct Place {
  int row;    // of the tile of outputs
  int token;  // of the tile of tokens
};

// Tiles, parts and blocks are counted in 32 bits: 64-bit divisions are calls to functions.
struct Tile {
  uint32_t rows;    // which tile of outputs
  uint32_t tokens;  // which tile of tokens
};

// Tiles are walked in groups of kGroup tiles of outputs, so that the blocks that run at one time share both operands.
constexpr uint32_t kGroup = 8;

SPARSEKIT_HOST_DEVICE inline Tile tile_of(uint32_t index, uint32_t row_tiles, uint32_t token_tiles) {
  const uint32_t group = index / (kGroup * token_tiles), within = index % (kGroup * token_tiles);
  const uint32_t left = row_tiles - group * kGroup, wide = left < kGroup ? left : kGroup;
  return {group * kGroup + within % wide, within / wide};
}

// A part of the columns: part `split` of `splits` takes the blocks [first_block(split), first_block(split + 1)).
SPARSEKIT_HOST_DEVICE inline uint32_t first_block(uint32_t split, uint32_t splits, uint32_t blocks) {
  return split * blocks / splits;
}

// mma.sp m16n8k32: a warp owns 16 outputs and takes 128 columns at a time from its panel, which holds for each of
// four steps of 32 columns what lane 0..31 loads as 16 bytes, and then the two metadata words of each lane: the first
// for steps 0 (selector 0: the words of lanes 0 and 1 of every four) and 1 (selector 1: of lanes 2 and 3), the second
// for steps 2 and 3.
namespace mma {

constexpr int kWarps = kTileRows / 16;
constexpr int kColumns = 128;
constexpr int kSteps = kColumns / 32;
constexpr int kStages = 4;
constexpr int kValueBytes = kSteps * 32 * 16;
constexpr int kPanelBytes = kValueBytes + 32 * 8;
constexpr int kTokenBytes = kColumns * 2;  // of one token in a stage

SPARSEKIT_HOST_DEVICE constexpr int stage_bytes(int tokens) { return kWarps * kPanelBytes + tokens * kTokenBytes; }
SPARSEKIT_HOST_DEVICE constexpr int shared_bytes(int tokens) { return kStages * stage_bytes(tokens); }

// Bytes from the first panel of the weight; a panel belongs to 16 rows and one block of columns.
SPARSEKIT_HOST_DEVICE inline int64_t panel_at(int64_t row_block, uint32_t block, uint32_t blocks) {
  return (row_block * blocks + block) * kPanelBytes;
}

// Bytes from the panel: the values of `lane` for `step`, and its two metadata words.
SPARSEKIT_HOST_DEVICE inline int values_at(int step, int lane) { return (step * 32 + lane) * 16; }
SPARSEKIT_HOST_DEVICE inline int metadata_at(int lane) { return kValueBytes + lane * 8; }

// Bytes from the stage's tokens: eight columns of a token. The exclusive-or spreads eight tokens over all banks.
SPARSEKIT_HOST_DEVICE inline int chunk_at(int token, int chunk) {
  return token * kTokenBytes + ((chunk ^ (token & 7)) * 16);
}

// The row of 16 bytes whose address `lane` gives to ldmatrix.x4 for eight tokens and 32 columns.
SPARSEKIT_HOST_DEVICE inline int ldmatrix_at(int step, int tokens8, int lane) {
  return chunk_at(tokens8 * 8 + lane % 8, step * 4 + lane / 8);
}

// Of the 16 outputs of a warp and eight tokens: what accumulator `i` of `lane` holds.
SPARSEKIT_HOST_DEVICE inline Place place_of(int lane, int i) { return {lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2}; }

}  // namespace mma

// wgmma.sp m64nNk32: two warpgroups own 64 outputs each and take 64 columns at a time. A panel is what shared memory
// has to hold: 128 rows of 32 values, 64 bytes each under the 64-byte swizzle, and then one metadata word per thread,
// of which lanes 0 and 1 of every four serve the first 32 columns (selector 0) and lanes 2 and 3 the others.
namespace wgmma {

constexpr int kColumns = 64;
constexpr int kSteps = kColumns / 32;
constexpr int kConsumers = 2;  // warpgroups that multiply; one more loads
constexpr int kThreads = 128 * (kConsumers + 1);
constexpr int kRowBytes = kColumns / 2 * 2;
constexpr int kValueBytes = kTileRows * kRowBytes;
constexpr int kPanelBytes = kValueBytes + 128 * kConsumers * 4;
constexpr int kTokenBytes = kColumns * 2;

SPARSEKIT_HOST_DEVICE constexpr int stage_bytes(int tokens) { return kPanelBytes + tokens * kTokenBytes; }
SPARSEKIT_HOST_DEVICE constexpr int stages(int tokens) { return tokens == 256 ? 5 : 8; }

SPARSEKIT_HOST_DEVICE inline int64_t panel_at(int64_t row_tile, uint32_t block, uint32_t blocks) {
  return (row_tile * blocks + block) * kPanelBytes;
}

// Bytes from the panel, which starts on a multiple of 1024.
SPARSEKIT_HOST_DEVICE inline int values_at(int row, int chunk) {
  return row * kRowBytes + ((chunk ^ (row / 2 & 3)) * 16);
}
SPARSEKIT_HOST_DEVICE inline int metadata_at(int thread) { return kValueBytes + thread * 4; }

// A matrix in shared memory whose rows of columns are 64 or 128 bytes, swizzled over the same number of bytes: start
// address, leading dimension (1: not used), bytes from eight rows to the next eight, and the swizzle.
SPARSEKIT_HOST_DEVICE inline uint64_t descriptor(uint32_t address, int row_bytes) {
  const uint64_t swizzle = row_bytes == 128 ? 1 : 2;
  return static_cast<uint64_t>((address & 0x3FFFF) >> 4) | uint64_t{1} << 16 |
         static_cast<uint64_t>(row_bytes * 8 >> 4) << 32 | swizzle << 62;
}

SPARSEKIT_HOST_DEVICE inline uint64_t weights_at(uint32_t stage, int warpgroup, int step) {
  return descriptor(stage + warpgroup * 64 * kRowBytes + step * 32, kRowBytes);
}
SPARSEKIT_HOST_DEVICE inline uint64_t tokens_at(uint32_t stage, int step) {
  return descriptor(stage + kPanelBytes + step * 64, kTokenBytes);
}

// Of the tile: what accumulator `i` of a multiplying thread holds.
SPARSEKIT_HOST_DEVICE inline Place place_of(int thread, int i) {
  const int lane = thread % 32;
  return {thread / 32 * 16 + lane / 4 + i % 4 / 2 * 8, i / 4 * 8 + lane % 4 * 2 + i % 2};
}

// Outputs leave through a buffer of each warp, 32 tokens by 16 outputs; 48 bytes a token keep stmatrix off a bank
// that another row uses.
constexpr int kOutTokens = 32;
constexpr int kOutPitch = 48;
constexpr int kOutBytes = kOutTokens * kOutPitch;

// The row of 16 bytes whose address `lane` gives to stmatrix.x4.trans, which stores 16 outputs of eight tokens twice.
SPARSEKIT_HOST_DEVICE inline int stmatrix_at(int tokens8, int lane) {
  const int matrix = lane / 8;
  return ((tokens8 + matrix / 2) * 8 + lane % 8) * kOutPitch + matrix % 2 * 16;
}

// Of the four matrices that it stores for part `part` of the tokens: the first of two sums of `matrix`.
SPARSEKIT_HOST_DEVICE inline int first_sum(int part, int tokens8, int matrix) {
  return (part * (kOutTokens / 8) + tokens8 + matrix / 2) * 4 + matrix % 2 * 2;
}

// Shared memory: what it takes to start on a multiple of 1024, the stages, the buffers, and two barriers a stage.
SPARSEKIT_HOST_DEVICE constexpr int barriers_at(int tokens) {
  return stages(tokens) * stage_bytes(tokens) + 4 * kConsumers * kOutBytes;
}
SPARSEKIT_HOST_DEVICE constexpr int shared_bytes(int tokens) {
  return 1024 + barriers_at(tokens) + stages(tokens) * 16;
}

}  // namespace wgmma

}  // namespace sparsekit::cuda
