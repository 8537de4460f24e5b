// How a kernel is started and finds its shared memory.
#pragma once

#include <cstdint>

#include "check.h"

namespace sparsekit::cuda {

__device__ __forceinline__ uint8_t* dynamic_shared() {
  extern __shared__ __align__(1024) uint8_t memory[];
  return memory;
}

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Keeps an argument from taking part in the deduction of the kernel's parameters.
template <class T>
struct Given {
  using type = T;
};

struct Grid {
  uint32_t blocks;
  int threads, shared_bytes;  // of a block
  void* stream;
};

// `what` is done, for messages.
template <class... Parameters>
void launch(const char* what, void (*kernel)(Parameters...), const Grid& grid,
            const typename Given<Parameters>::type&... arguments) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, grid.shared_bytes), what);
  kernel<<<grid.blocks, grid.threads, grid.shared_bytes, static_cast<cudaStream_t>(grid.stream)>>>(arguments...);
  check(cudaGetLastError(), what);
}

}  // namespace sparsekit::cuda
