// mma.sp and what feeds it on sm_80 and later, one function per instruction.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace sparsekit::cuda {

// Copies `bytes` of 16 and fills the rest with zeros.
__device__ __forceinline__ void copy_async(uint32_t to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most kPending groups of copies are unfinished.
template <int kPending>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

__device__ __forceinline__ uint4 load16(uint32_t from) {
  uint4 to;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(to.x), "=r"(to.y), "=r"(to.z), "=r"(to.w)
               : "r"(from)
               : "memory");
  return to;
}

__device__ __forceinline__ uint2 load8(uint32_t from) {
  uint2 to;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(to.x), "=r"(to.y) : "r"(from) : "memory");
  return to;
}

__device__ __forceinline__ uint4 load_matrices(uint32_t row) {
  uint4 to;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to.x), "=r"(to.y), "=r"(to.z), "=r"(to.w)
               : "r"(row)
               : "memory");
  return to;
}

#define SPARSEKIT_MMA_SP(TYPE)                                                                                  \
  asm volatile("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32." TYPE "." TYPE                      \
               ".f32 "                                                                                          \
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, %13;"            \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                 \
               : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y), "r"(b.z), "r"(b.w), "r"(metadata), \
                 "n"(kSelector))

// Adds the product of 16 outputs and 8 tokens over 32 columns to the sums.
template <class T, int kSelector>
__device__ __forceinline__ void mma_sp(float (&d)[4], uint4 a, uint4 b, uint32_t metadata) {
  if constexpr (std::is_same_v<T, __half>) {
    SPARSEKIT_MMA_SP("f16");
  } else {
    SPARSEKIT_MMA_SP("bf16");
  }
}

}  // namespace sparsekit::cuda
