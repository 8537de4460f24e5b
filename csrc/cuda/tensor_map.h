// Descriptions of matrices for the copy engine, made by the driver.
#pragma once

#include <cudaTypedefs.h>

#include <cstdint>

#include "check.h"

namespace sparsekit::cuda {

// The driver's own function, found at run time: nothing here links to libcuda.
inline PFN_cuTensorMapEncodeTiled_v12000 encoder() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult answer = cudaDriverEntryPointSymbolNotFound;
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &answer),
        "looking for cuTensorMapEncodeTiled");
  if (found == nullptr || answer != cudaDriverEntryPointSuccess) {
    throw std::runtime_error("expected a driver that has cuTensorMapEncodeTiled, CUDA 12.0 or newer");
  }
  return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(found);
}

// A matrix of 16-bit values whose rows are contiguous and start on multiples of 16 bytes, and the boxes in which the
// copy engine brings it.
struct Boxed {
  const void* values;
  int64_t rows, columns, stride;  // values from one row to the next
  int box_rows, box_columns;      // 64 columns: the 128 bytes of the swizzle
  bool bf16;
};

inline CUtensorMap map_of(const Boxed& matrix) {
  static const auto encode = encoder();
  CUtensorMap map;
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(matrix.columns), static_cast<cuuint64_t>(matrix.rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(matrix.stride) * 2};
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(matrix.box_columns), static_cast<cuuint32_t>(matrix.box_rows)};
  const cuuint32_t steps[2] = {1, 1};
  const CUresult status =
      encode(&map, matrix.bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2,
             const_cast<void*>(matrix.values), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    throw std::runtime_error("describing x to the copy engine: the driver answered error " + std::to_string(status));
  }
  return map;
}

}  // namespace sparsekit::cuda
