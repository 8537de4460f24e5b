// 2:4 for few tokens, sm_80 on. Each warp streams the panels of its 16 outputs through a ring of stages in shared
// memory; the tokens of a stage are shared by the eight warps of the block.
#include "elements.cuh"
#include "launch.cuh"
#include "mma.cuh"
#include "nm.h"
#include "nm_places.h"

namespace sparsekit::cuda {
namespace {

using namespace mma;

constexpr int kThreads = kWarps * 32;

struct Work {
  const uint8_t* panels;
  const uint8_t* x;
  const void* bias;
  void* y;
  float* partial;
  int64_t rows, columns, batch, x_bytes;  // bytes from one token to the next
  NmCounts counts;
  int splits;
};

// One stage: the panels of this warp and, shared among the warps, columns [block * kColumns, ...) of the tokens.
template <int kTokens>
__device__ __forceinline__ void load(const Work& work, Tile tile, uint32_t block, uint32_t stage) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint8_t* panel =
      work.panels + panel_at(static_cast<int64_t>(tile.rows) * kWarps + warp, block, work.counts.blocks);
  for (int at = lane * 16; at < kPanelBytes; at += 32 * 16) copy_async(stage + warp * kPanelBytes + at, panel + at, 16);
  const uint32_t tokens = stage + kWarps * kPanelBytes;
  for (int at = threadIdx.x; at < kTokens * kTokenBytes / 16; at += kThreads) {
    const int chunk = at % (kTokenBytes / 16), token = at / (kTokenBytes / 16);
    const int64_t column = static_cast<int64_t>(block) * kColumns + chunk * 8;
    const int64_t row = static_cast<int64_t>(tile.tokens) * kTokens + token;
    const int64_t left = row < work.batch ? (work.columns - column) * 2 : 0;
    const int bytes = left < 0 ? 0 : left < 16 ? static_cast<int>(left) : 16;
    const uint8_t* from = bytes > 0 ? work.x + row * work.x_bytes + column * 2 : work.x;
    copy_async(tokens + chunk_at(token, chunk), from, bytes);
  }
}

template <class T, int kTokens>
__device__ __forceinline__ void multiply(uint32_t stage, float (&sums)[kTokens / 8][4]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t panel = stage + warp * kPanelBytes, tokens = stage + kWarps * kPanelBytes;
  const uint2 metadata = load8(panel + metadata_at(lane));
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    const uint4 a = load16(panel + values_at(step, lane));
    const uint32_t word = step < 2 ? metadata.x : metadata.y;
#pragma unroll
    for (int n = 0; n < kTokens / 8; ++n) {
      const uint4 b = load_matrices(tokens + ldmatrix_at(step, n, lane));
      if (step % 2 == 0) {
        mma_sp<T, 0>(sums[n], a, b, word);
      } else {
        mma_sp<T, 1>(sums[n], a, b, word);
      }
    }
  }
}

template <class T, int kTokens>
__device__ __forceinline__ void store(const Work& work, Tile tile, int split, const float (&sums)[kTokens / 8][4]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const T* bias = static_cast<const T*>(work.bias);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const Place place = place_of(lane, i);
    const int64_t row = static_cast<int64_t>(tile.rows) * kTileRows + warp * 16 + place.row;
    if (row >= work.rows) continue;
    const float start = bias != nullptr && work.splits == 1 ? widened(bias[row]) : 0.0f;
#pragma unroll
    for (int n = 0; n < kTokens / 8; ++n) {
      const int64_t token = static_cast<int64_t>(tile.tokens) * kTokens + n * 8 + place.token;
      if (token >= work.batch) continue;
      if (work.splits == 1) {
        static_cast<T*>(work.y)[token * work.rows + row] = narrowed<T>(sums[n][i] + start);
      } else {
        work.partial[(split * work.batch + token) * work.rows + row] = sums[n][i];
      }
    }
  }
}

// Cost: 9/16 of the dense weight's bytes, once per tile of tokens; 2 FLOP per kept weight and token.
template <class T, int kTokens>
__global__ void __launch_bounds__(kThreads, kTokens == 64 ? 1 : 2) multiply_few(const Work work) {
  const uint32_t ring = shared_address(dynamic_shared());
  const NmCounts& counts = work.counts;
  const uint32_t tiles = counts.row_tiles * counts.token_tiles;
  const Tile tile = tile_of(blockIdx.x % tiles, counts.row_tiles, counts.token_tiles);
  const int split = static_cast<int>(blockIdx.x / tiles);
  const uint32_t first = first_block(split, work.splits, counts.blocks);
  const uint32_t last = first_block(split + 1, work.splits, counts.blocks);
  const auto stage = [&](uint32_t block) { return ring + (block - first) % kStages * stage_bytes(kTokens); };
  // A group is committed in every turn, empty or not, so that the count of pending groups always tells the stage.
  for (uint32_t block = first; block < first + kStages - 1; ++block) {
    if (block < last) load<kTokens>(work, tile, block, stage(block));
    commit_copies();
  }
  float sums[kTokens / 8][4] = {};
  for (uint32_t block = first; block < last; ++block) {
    wait_for_copies<kStages - 2>();
    __syncthreads();  // the stage is there for all warps, and the one before it has been read by all
    const uint32_t next = block + kStages - 1;
    if (next < last) load<kTokens>(work, tile, next, stage(next));
    commit_copies();
    multiply<T, kTokens>(stage(block), sums);
  }
  store<T, kTokens>(work, tile, split, sums);
}

template <class T>
void launch_few(int tokens, const Work& work, void* stream) {
  const auto run = [&](void (*kernel)(Work)) {
    launch("launching the 2:4 kernel of few tokens", kernel,
           {work.counts.items, kThreads, shared_bytes(tokens), stream}, work);
  };
  switch (tokens) {
    case 8: return run(multiply_few<T, 8>);
    case 32: return run(multiply_few<T, 32>);
    case 64: return run(multiply_few<T, 64>);
    default: throw std::runtime_error("expected tiles of 8, 32 or 64 tokens, got " + std::to_string(tokens));
  }
}

}  // namespace

void nm_mma(const NmWeight& weight, const NmProduct& product, const NmLaunch& cut) {
  const Work work = {static_cast<const uint8_t*>(weight.panels),
                     static_cast<const uint8_t*>(product.x),
                     product.bias,
                     product.y,
                     cut.partial,
                     weight.rows,
                     weight.columns,
                     product.batch,
                     product.x_stride * 2,
                     nm_counts(weight, product, cut, kColumns),
                     cut.splits};
  weight.bf16 ? launch_few<__nv_bfloat16>(cut.tokens, work, cut.stream)
              : launch_few<__half>(cut.tokens, work, cut.stream);
  if (cut.splits > 1) nm_sum_parts(weight, product, cut);
}

}  // namespace sparsekit::cuda
