// The two element types that the sparse tensor cores multiply with 16 bits.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>

namespace sparsekit::cuda {

template <class T>
__device__ __forceinline__ T narrowed(float value);
template <>
__device__ __forceinline__ __half narrowed<__half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __forceinline__ __nv_bfloat16 narrowed<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

__device__ __forceinline__ float widened(__half value) { return __half2float(value); }
__device__ __forceinline__ float widened(__nv_bfloat16 value) { return __bfloat162float(value); }

// Two values in one register, the first in the low half.
template <class T>
__device__ __forceinline__ uint32_t paired(float low, float high) {
  static_assert(sizeof(T) == 2);
  const T both[2] = {narrowed<T>(low), narrowed<T>(high)};
  uint32_t bits;
  memcpy(&bits, both, sizeof(bits));
  return bits;
}

}  // namespace sparsekit::cuda
