// Takes the place of csrc/cuda/wgmma.cuh.
#pragma once

#include <array>

#include "registers.h"
#include "tensor_map.h"

namespace sparsekit::cuda {

inline void barrier_init(uint32_t at, int arrivals) { emulator::barrier(at) = {arrivals, arrivals, 0, 0}; }
inline void fence_barriers() {}

inline void arrive(uint32_t at) {
  auto& barrier = emulator::barrier(at);
  --barrier.pending;
  emulator::settle(barrier);
}

inline void arrive_expecting(uint32_t at, uint32_t bytes) {
  emulator::barrier(at).bytes += bytes;
  arrive(at);
}

inline void wait_phase(uint32_t at, uint32_t parity) {
  while (emulator::barrier(at).phase % 2 == parity) emulator::yield();
}

inline void complete(uint32_t at, int bytes) {
  auto& barrier = emulator::barrier(at);
  barrier.bytes -= bytes;
  emulator::settle(barrier);
}

inline void bulk_copy(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  if (to % 16 != 0 || bytes % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0) {
    emulator::fail("cp.async.bulk is not aligned");
  }
  emulator::later([=] {
    std::memcpy(emulator::at(to, bytes), from, bytes);
    complete(barrier, bytes);
  });
}

// Swizzle<bits, 4, 3> of 9.7.15.5.1.2.1.3.
inline uint32_t swizzled(uint32_t address, int bits) { return address ^ (address >> 7 & ((1u << bits) - 1)) << 4; }

inline void tensor_copy(uint32_t to, const CUtensorMap& map, int column, int token, uint32_t barrier) {
  if (to % 1024 != 0) emulator::fail("the box of a 128-byte swizzle does not start on a multiple of 1024");
  emulator::later([=] {
    for (int row = 0; row < map.box_rows; ++row) {
      for (int i = 0; i < map.box_columns; ++i) {
        uint16_t value = 0;
        if (token + row < map.rows && column + i < map.columns) {
          value = static_cast<const uint16_t*>(map.values)[(token + row) * map.stride + column + i];
        }
        std::memcpy(emulator::at(swizzled(to + row * 128 + i * 2, 3), 2), &value, 2);
      }
    }
    complete(barrier, map.box_rows * map.box_columns * 2);
  });
}

template <int kRegisters>
void give_registers() {}
template <int kRegisters>
void take_registers() {}

inline void wgmma_fence() {}

inline void wgmma_commit() {
  emulator::meet(128, "wgmma.commit_group", nullptr, [](void**) { emulator::commit_multiplications(); });
}

template <int kPending>
void wgmma_wait() {
  emulator::meet(128, "wgmma.wait_group", nullptr, [](void**) { emulator::wait_for_multiplications(kPending); });
}

template <int kCount>
void pin(float (&)[kCount]) {}

inline uint32_t load4(uint32_t from) {
  uint32_t to;
  std::memcpy(&to, emulator::at(from, 4), 4);
  return to;
}

inline void store_matrices_transposed(uint32_t row, const uint32_t (&from)[4]) {
  struct Operand {
    uint8_t* row;
    const uint32_t* from;
  } own = {emulator::at(row, 16), from};
  if (row % 16 != 0) emulator::fail("a row of stmatrix is not aligned");
  emulator::meet(32, "stmatrix", &own, [](void** all) {
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 8; ++i) {  // element (lane / 4, lane % 4 * 2 + i % 2) of matrix i / 2, stored transposed
        const auto bits = static_cast<uint16_t>(static_cast<Operand*>(all[lane])->from[i / 2] >> (i % 2 * 16));
        auto* to = static_cast<Operand*>(all[i / 2 * 8 + lane % 4 * 2 + i % 2])->row + lane / 4 * 2;
        std::memcpy(to, &bits, 2);
      }
    }
  });
}

// Element `column` of row `row` of the K-major matrix that a descriptor describes (9.7.15.5.1.2.2).
template <class T>
double described(uint64_t descriptor, int row, int column) {
  const uint32_t start = (descriptor & 0x3FFF) << 4, stride = (descriptor >> 32 & 0x3FFF) << 4;
  const int bits = descriptor >> 62 == 1 ? 3 : 2, width = 16 << bits;
  return emulator::element<T>(emulator::at(swizzled(start + row / 8 * stride + row % 8 * width + column * 2, bits), 2),
                              0);
}

template <class T, int kTokens, int kSelector>
void wgmma_sp(float (&d)[kTokens / 2], uint64_t weights, uint64_t tokens, uint32_t metadata, bool add) {
  struct Operand {
    float* d;
    uint64_t weights, tokens;
    uint32_t metadata;
    bool add;
  } own = {d, weights, tokens, metadata, add};
  emulator::meet(128, kSelector == 0 ? "wgmma.sp, 0" : "wgmma.sp, 1", &own, [](void** all) {
    std::array<Operand, 128> operands;
    for (int i = 0; i < 128; ++i) {
      operands[i] = *static_cast<Operand*>(all[i]);
      const bool same = operands[i].weights == operands[0].weights && operands[i].tokens == operands[0].tokens;
      if (!same || operands[i].add != operands[0].add)
        emulator::fail("the warps of a warpgroup differ in a descriptor");
    }
    emulator::multiplication([operands] {
      static double dense[64][32], columns[256][32];
      std::memset(dense, 0, sizeof(dense));
      for (int row = 0; row < 64; ++row) {
        uint32_t words[32];
        for (int lane = 0; lane < 32; ++lane) words[lane] = operands[row / 16 * 32 + lane].metadata;
        for (int k = 0; k < 16; ++k) {
          const int at = emulator::position(words, kSelector, row % 16, k / 2, k % 2);
          dense[row][k / 2 * 4 + at] = described<T>(operands[0].weights, row, k);
        }
      }
      for (int n = 0; n < kTokens; ++n) {
        for (int k = 0; k < 32; ++k) columns[n][k] = described<T>(operands[0].tokens, n, k);
      }
      for (int thread = 0; thread < 128; ++thread) {
        for (int i = 0; i < kTokens / 2; ++i) {
          const int row = thread / 32 * 16 + thread % 32 / 4 + i % 4 / 2 * 8, n = i / 4 * 8 + thread % 4 * 2 + i % 2;
          double sum = operands[0].add ? operands[thread].d[i] : 0.0;
          for (int k = 0; k < 32; ++k) sum += dense[row][k] * columns[n][k];
          operands[thread].d[i] = static_cast<float>(sum);
        }
      }
    });
  });
}

}  // namespace sparsekit::cuda
