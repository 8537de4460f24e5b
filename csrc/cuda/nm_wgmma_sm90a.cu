// 2:4 for many tokens on the sparse tensor cores of sm_90a. Persistent blocks walk the tiles; one warp feeds a ring of
// stages in shared memory, two warpgroups multiply 64 outputs each from it.
#include "elements.cuh"
#include "launch.cuh"
#include "nm.h"
#include "nm_places.h"
#include "tensor_map.h"
#include "wgmma.cuh"

namespace sparsekit::cuda {
namespace {

using namespace wgmma;

constexpr int kGiven = 40;   // registers that a loading thread keeps
constexpr int kTaken = 232;  // registers that a multiplying thread has then
// A block starts with 168 registers a thread, all that 384 threads can have; what is taken has to have been given.
static_assert(kGiven + kConsumers * kTaken <= (kConsumers + 1) * 168);

struct Work {
  const uint8_t* panels;
  const void* bias;
  void* y;
  float* partial;
  int64_t rows, batch;
  NmCounts counts;
  int splits;
};

// One tile over one part of the columns.
struct Item {
  Tile tile;
  int split;
  uint32_t first, last;  // blocks of columns
};

__device__ __forceinline__ Item item_of(const Work& work, uint32_t index) {
  const NmCounts& counts = work.counts;
  const uint32_t tiles = counts.row_tiles * counts.token_tiles;
  const int split = static_cast<int>(index / tiles);
  return {tile_of(index % tiles, counts.row_tiles, counts.token_tiles), split,
          first_block(split, work.splits, counts.blocks), first_block(split + 1, work.splits, counts.blocks)};
}

// The ring as one side sees it: a slot, and the parity of the phase that the side waits for.
template <int kTokens>
struct Ring {
  uint32_t base, full, empty;  // shared addresses: of slot 0, and of its barriers
  uint32_t slot = 0, parity;

  __device__ uint32_t stage() const { return base + slot * stage_bytes(kTokens); }
  __device__ uint32_t filled() const { return full + slot * 8; }
  __device__ uint32_t emptied() const { return empty + slot * 8; }
  __device__ void advance() {
    if (++slot == stages(kTokens)) {
      slot = 0;
      parity ^= 1;
    }
  }
};

template <int kTokens>
__device__ __forceinline__ void feed(const CUtensorMap& tokens, const Work& work, Ring<kTokens> ring) {
  for (uint32_t index = blockIdx.x; index < work.counts.items; index += gridDim.x) {
    const Item item = item_of(work, index);
    for (uint32_t block = item.first; block < item.last; ++block) {
      wait_phase(ring.emptied(), ring.parity);
      arrive_expecting(ring.filled(), stage_bytes(kTokens));
      bulk_copy(ring.stage(), work.panels + panel_at(item.tile.rows, block, work.counts.blocks), kPanelBytes,
                ring.filled());
      tensor_copy(ring.stage() + kPanelBytes, tokens, static_cast<int>(block * kColumns),
                  static_cast<int>(item.tile.tokens * kTokens), ring.filled());
      ring.advance();
    }
  }
}

// Sums one item. A slot is given back by each warp once the group of multiplications after its own has been issued.
template <class T, int kTokens>
__device__ __forceinline__ void sum_up(const Item& item, Ring<kTokens>& ring, float (&sums)[kTokens / 2]) {
  const int warpgroup = __shfl_sync(0xFFFFFFFF, threadIdx.x / 128, 0);  // known to be the same in all of a warp
  const bool speaks = threadIdx.x % 32 == 0;
  uint32_t previous = 0;
  pin(sums);
  for (uint32_t block = item.first; block < item.last; ++block) {
    wait_phase(ring.filled(), ring.parity);
    const uint32_t stage = ring.stage();
    const uint32_t metadata = load4(stage + metadata_at(threadIdx.x));
    wgmma_fence();
    wgmma_sp<T, kTokens, 0>(sums, weights_at(stage, warpgroup, 0), tokens_at(stage, 0), metadata, block != item.first);
    wgmma_sp<T, kTokens, 1>(sums, weights_at(stage, warpgroup, 1), tokens_at(stage, 1), metadata, true);
    wgmma_commit();
    wgmma_wait<1>();
    if (block != item.first && speaks) arrive(previous);
    previous = ring.emptied();
    ring.advance();
  }
  wgmma_wait<0>();
  pin(sums);
  if (speaks) arrive(previous);
}

template <int kTokens>
__device__ __forceinline__ void store_partial(const Work& work, const Item& item, const float (&sums)[kTokens / 2]) {
#pragma unroll
  for (int i = 0; i < kTokens / 2; ++i) {
    const Place place = place_of(threadIdx.x, i);
    const int64_t row = static_cast<int64_t>(item.tile.rows) * kTileRows + place.row;
    const int64_t token = static_cast<int64_t>(item.tile.tokens) * kTokens + place.token;
    if (row < work.rows && token < work.batch) {
      work.partial[(item.split * work.batch + token) * work.rows + row] = sums[i];
    }
  }
}

// Eight outputs of one token.
template <class T>
__device__ __forceinline__ void store_chunk(const Work& work, int64_t token, int64_t row, uint4 chunk) {
  if (token >= work.batch || row >= work.rows) return;
  T* to = static_cast<T*>(work.y) + token * work.rows + row;
  if (work.rows % 8 == 0) {  // y starts on a multiple of 16 bytes
    *reinterpret_cast<uint4*>(to) = chunk;
    return;
  }
  const uint32_t words[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const auto bits = static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16));
    if (row + i < work.rows) reinterpret_cast<uint16_t*>(to)[i] = bits;
  }
}

template <class T, int kTokens>
__device__ __forceinline__ void store(const Work& work, const Item& item, const float (&sums)[kTokens / 2],
                                      const uint8_t* buffer) {
  const int lane = threadIdx.x % 32;
  const int64_t first_row = static_cast<int64_t>(item.tile.rows) * kTileRows + threadIdx.x / 32 * 16;
  const int64_t first_token = static_cast<int64_t>(item.tile.tokens) * kTokens;
  const T* bias = static_cast<const T*>(work.bias);
  float starts[2] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t row = first_row + lane / 4 + half * 8;
    if (bias != nullptr && row < work.rows) starts[half] = widened(bias[row]);
  }
#pragma unroll
  for (int part = 0; part < kTokens / kOutTokens; ++part) {
    __syncwarp();  // what was in the buffer has been read
#pragma unroll
    for (int tokens8 = 0; tokens8 < kOutTokens / 8; tokens8 += 2) {
      uint32_t matrices[4];
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        const int i = first_sum(part, tokens8, m);
        matrices[m] = paired<T>(sums[i] + starts[m % 2], sums[i + 1] + starts[m % 2]);
      }
      store_matrices_transposed(shared_address(buffer) + stmatrix_at(tokens8, lane), matrices);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = (lane + i * 32) / 2, half = lane % 2;
      const auto chunk = *reinterpret_cast<const uint4*>(buffer + token * kOutPitch + half * 16);
      store_chunk<T>(work, first_token + part * kOutTokens + token, first_row + half * 8, chunk);
    }
  }
}

// Cost: 9/16 of the dense weight's bytes per tile of tokens; 2 FLOP per kept weight and token.
template <class T, int kTokens>
__global__ void __launch_bounds__(kThreads, 1)
    multiply_many(const __grid_constant__ CUtensorMap tokens, const Work work) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  constexpr int kStages = stages(kTokens);
  uint8_t* base = dynamic_shared();
  base += (1024 - shared_address(base) % 1024) % 1024;  // the swizzles repeat within 1024 bytes
  const uint32_t full = shared_address(base) + barriers_at(kTokens), empty = full + kStages * 8;
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < kStages; ++slot) {
      barrier_init(full + slot * 8, 1);
      barrier_init(empty + slot * 8, 4 * kConsumers);
    }
    fence_barriers();
  }
  __syncthreads();
  if (threadIdx.x / 128 == kConsumers) {
    give_registers<kGiven>();
    // All slots are empty at first: the loader waits for the phase before the first, which has ended.
    if (threadIdx.x % 128 == 0) feed<kTokens>(tokens, work, {shared_address(base), full, empty, 0, 1});
  } else {
    take_registers<kTaken>();
    const uint8_t* buffer = base + kStages * stage_bytes(kTokens) + threadIdx.x / 32 * kOutBytes;
    Ring<kTokens> ring = {shared_address(base), full, empty, 0, 0};
    float sums[kTokens / 2];
    for (uint32_t index = blockIdx.x; index < work.counts.items; index += gridDim.x) {
      const Item item = item_of(work, index);
      sum_up<T, kTokens>(item, ring, sums);
      if (work.splits > 1) {
        store_partial<kTokens>(work, item, sums);
      } else {
        store<T, kTokens>(work, item, sums, buffer);
      }
    }
  }
#endif
}

template <class T>
void launch_many(const NmWeight& weight, const NmProduct& product, const NmLaunch& cut) {
  const Work work = {
      static_cast<const uint8_t*>(weight.panels), product.bias, product.y, cut.partial, weight.rows, product.batch,
      nm_counts(weight, product, cut, kColumns),  cut.splits};
  const auto most = static_cast<uint32_t>(cut.multiprocessors);
  const auto run = [&](void (*kernel)(CUtensorMap, Work)) {
    const Boxed x = {product.x, product.batch, weight.columns, product.x_stride, cut.tokens, kColumns, weight.bf16};
    launch("launching the 2:4 kernel of many tokens", kernel,
           {work.counts.items < most ? work.counts.items : most, kThreads, shared_bytes(cut.tokens), cut.stream},
           map_of(x), work);
  };
  switch (cut.tokens) {
    case 128: return run(multiply_many<T, 128>);
    case 256: return run(multiply_many<T, 256>);
    default: throw std::runtime_error("expected tiles of 128 or 256 tokens, got " + std::to_string(cut.tokens));
  }
}

}  // namespace

void nm_wgmma(const NmWeight& weight, const NmProduct& product, const NmLaunch& cut) {
  weight.bf16 ? launch_many<__nv_bfloat16>(weight, product, cut) : launch_many<__half>(weight, product, cut);
  if (cut.splits > 1) nm_sum_parts(weight, product, cut);
}

}  // namespace sparsekit::cuda
