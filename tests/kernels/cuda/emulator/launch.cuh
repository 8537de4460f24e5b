// Takes the place of csrc/cuda/launch.cuh.
#pragma once

#include <cstdint>

#include "check.h"
#include "emulator.h"

namespace sparsekit::cuda {

using emulator::dynamic_shared;
using emulator::shared_address;

template <class T>
struct Given {
  using type = T;
};

struct Grid {
  uint32_t blocks;
  int threads, shared_bytes;
  void* stream;
};

template <class... Parameters>
void launch(const char*, void (*kernel)(Parameters...), const Grid& grid,
            const typename Given<Parameters>::type&... arguments) {
  emulator::run(grid.blocks, grid.threads, grid.shared_bytes, [&] { kernel(arguments...); });
}

}  // namespace sparsekit::cuda
