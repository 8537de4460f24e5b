// Runs the source of a CUDA kernel on the CPU: each thread of a block is a fiber, and blocks run one after the other.
//
// What is asynchronous happens as late, and where order is free in as random an order, as the PTX ISA allows: copies of
// the copy engine at random times, those of a thread and multiplications of a warpgroup only when they are waited for.
// Shared memory starts full of NaN at an address that is aligned to 16 bytes alone.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#define __device__
#define __global__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __CUDA_ARCH_FEAT_SM90_ALL

struct uint2 {
  uint32_t x, y;
};
struct uint4 {
  uint32_t x, y, z, w;
};

struct Dimension {
  unsigned x;
};
extern Dimension threadIdx, blockIdx, gridDim;

namespace emulator {

// Gives up the block, which the launch then reports; does not return to the fiber.
[[noreturn]] void fail(const std::string& what);
void yield();

// The `count` threads around this one come with an operand each; the last to come runs `act` on all of them.
void meet(int count, const char* kind, void* operand, const std::function<void(void**)>& act);

// Something that the copy engine does at some time.
void later(std::function<void()> act);

// A copy of this thread, done when it waits for its group.
void copy(std::function<void()> act);
void commit_copies();
void wait_for_copies(int pending);

// A multiplication of this warpgroup, done when the warpgroup waits for its group.
void multiplication(std::function<void()> act);
void commit_multiplications();
void wait_for_multiplications(int pending);

uint8_t* dynamic_shared();
uint32_t shared_address(const void* pointer);
uint8_t* at(uint32_t address, int bytes);  // of shared memory; fails where it is not the block's

struct Barrier {
  int count = 0, pending = 0;
  int64_t bytes = 0;
  uint32_t phase = 0;
};
Barrier& barrier(uint32_t address);
void settle(Barrier& barrier);  // ends the phase if nothing is pending

void run(uint32_t blocks, int threads, int shared_bytes, const std::function<void()>& kernel);

}  // namespace emulator

inline void __syncthreads() {
  extern int emulated_threads;
  emulator::meet(emulated_threads, "__syncthreads", nullptr, [](void**) {});
}

inline void __syncwarp() {
  emulator::meet(32, "__syncwarp", nullptr, [](void**) {});
}

template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  T* own[2] = {&value, nullptr};
  T found = value;
  own[1] = &found;
  emulator::meet(32, "__shfl_sync", own, [lane](void** all) {
    for (int i = 0; i < 32; ++i) *static_cast<T**>(all[i])[1] = *static_cast<T**>(all[lane])[0];
  });
  return found;
}
