// Takes the place of csrc/cuda/mma.cuh.
#pragma once

#include "registers.h"

namespace sparsekit::cuda {

inline void copy_async(uint32_t to, const void* from, int bytes) {
  if (to % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0)
    emulator::fail("cp.async of 16 bytes is not aligned");
  uint8_t* place = emulator::at(to, 16);
  emulator::copy([=] {
    std::memset(place, 0, 16);
    std::memcpy(place, from, bytes);
  });
}

inline void commit_copies() { emulator::commit_copies(); }

template <int kPending>
void wait_for_copies() {
  emulator::wait_for_copies(kPending);
}

inline uint4 load16(uint32_t from) {
  if (from % 16 != 0) emulator::fail("a load of 16 bytes is not aligned");
  uint4 to;
  std::memcpy(&to, emulator::at(from, 16), 16);
  return to;
}

inline uint2 load8(uint32_t from) {
  if (from % 8 != 0) emulator::fail("a load of 8 bytes is not aligned");
  uint2 to;
  std::memcpy(&to, emulator::at(from, 8), 8);
  return to;
}

inline uint4 load_matrices(uint32_t row) {
  struct Operand {
    uint8_t* row;
    uint32_t to[4];
  } own = {emulator::at(row, 16), {}};
  emulator::meet(32, "ldmatrix", &own, [](void** all) {
    for (int lane = 0; lane < 32; ++lane) {
      for (int j = 0; j < 4; ++j) {
        const auto* from = static_cast<Operand*>(all[8 * j + lane / 4])->row + lane % 4 * 4;
        std::memcpy(&static_cast<Operand*>(all[lane])->to[j], from, 4);
      }
    }
  });
  return {own.to[0], own.to[1], own.to[2], own.to[3]};
}

template <class T, int kSelector>
void mma_sp(float (&d)[4], uint4 a, uint4 b, uint32_t metadata) {
  struct Operand {
    float* d;
    uint4 a, b;
    uint32_t metadata;
  } own = {d, a, b, metadata};
  emulator::meet(32, kSelector == 0 ? "mma.sp, 0" : "mma.sp, 1", &own, [](void** all) {
    double kept[16][16], tokens[32][8];
    uint32_t words[32];
    for (int lane = 0; lane < 32; ++lane) {
      const auto& operand = *static_cast<Operand*>(all[lane]);
      words[lane] = operand.metadata;
      for (int i = 0; i < 8; ++i) {
        const bool upper = i < 2 || (i >= 4 && i < 6);
        kept[lane / 4 + (upper ? 0 : 8)][lane % 4 * 2 + i % 2 + (i < 4 ? 0 : 8)] = emulator::element<T>(&operand.a, i);
        tokens[lane % 4 * 2 + i % 2 + i / 2 * 8][lane / 4] = emulator::element<T>(&operand.b, i);
      }
    }
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        double sum = static_cast<Operand*>(all[lane])->d[i];
        for (int k = 0; k < 16; ++k) {
          const int at = emulator::position(words, kSelector, row, k / 2, k % 2);
          sum += kept[row][k] * tokens[k / 2 * 4 + at][column];
        }
        static_cast<Operand*>(all[lane])->d[i] = static_cast<float>(sum);
      }
    }
  });
}

}  // namespace sparsekit::cuda
