// Takes the place of csrc/cuda/tensor_map.h: a map is its own description.
#pragma once

#include <cstdint>

#include "check.h"

namespace sparsekit::cuda {

struct Boxed {
  const void* values;
  int64_t rows, columns, stride;
  int box_rows, box_columns;
  bool bf16;
};

}  // namespace sparsekit::cuda

using CUtensorMap = sparsekit::cuda::Boxed;

namespace sparsekit::cuda {

inline CUtensorMap map_of(const Boxed& matrix) {
  const bool aligned = reinterpret_cast<uintptr_t>(matrix.values) % 16 == 0 && matrix.stride % 8 == 0;
  if (!aligned || matrix.stride < matrix.columns || matrix.rows < 1 || matrix.columns < 1 || matrix.box_rows > 256) {
    throw std::runtime_error("the driver would refuse this map");
  }
  return matrix;
}

}  // namespace sparsekit::cuda
