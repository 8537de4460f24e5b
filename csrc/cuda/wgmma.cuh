// wgmma.sp, transactions barriers and the bulk copy engine of sm_90a, one function per instruction.
#pragma once

#include <cuda.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace sparsekit::cuda {

__device__ __forceinline__ void barrier_init(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes initialised barriers known to the copy engine.
__device__ __forceinline__ void fence_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Arrives, and lets the phase end only when `bytes` have been copied besides.
__device__ __forceinline__ void arrive_expecting(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// Waits until the phase of this parity has ended; the phase before the first counts as one of parity 1 that has.
__device__ __forceinline__ void wait_phase(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

__device__ __forceinline__ void bulk_copy(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "l"(from), "r"(bytes), "r"(barrier)
               : "memory");
}

// One box of the tensor, from (column, token) on; what lies outside the tensor arrives as zeros and is counted too.
__device__ __forceinline__ void tensor_copy(uint32_t to, const CUtensorMap& map, int column, int token,
                                            uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::
          "r"(to),
      "l"(&map), "r"(column), "r"(token), "r"(barrier)
      : "memory");
}

template <int kRegisters>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Orders what this warp wrote to registers before the multiplications that follow.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most kPending committed groups are unfinished.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps the compiler from reading the sums before, or writing them after, this point.
template <int kCount>
__device__ __forceinline__ void pin(float (&sums)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}

__device__ __forceinline__ uint32_t load4(uint32_t from) {
  uint32_t to;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(to) : "r"(from) : "memory");
  return to;
}

__device__ __forceinline__ void store_matrices_transposed(uint32_t row, const uint32_t (&from)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared::cta.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(from[0]),
               "r"(from[1]), "r"(from[2]), "r"(from[3])
               : "memory");
}

#define SPARSEKIT_SUMS_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SPARSEKIT_SUMS_16(i) \
  SPARSEKIT_SUMS_4(i), SPARSEKIT_SUMS_4(i + 4), SPARSEKIT_SUMS_4(i + 8), SPARSEKIT_SUMS_4(i + 12)
#define SPARSEKIT_SUMS_64(i) \
  SPARSEKIT_SUMS_16(i), SPARSEKIT_SUMS_16(i + 16), SPARSEKIT_SUMS_16(i + 32), SPARSEKIT_SUMS_16(i + 48)

#define SPARSEKIT_SUMS_128 SPARSEKIT_SUMS_64(0), SPARSEKIT_SUMS_64(64)

#define SPARSEKIT_NAMES_64                                                           \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "           \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define SPARSEKIT_NAMES_128                                                                      \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                       \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "             \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "             \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "             \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "             \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "             \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

// Operands: sums, then weights, tokens, metadata, whether to add to the sums, and the selector.
#define SPARSEKIT_WGMMA_SP(N, TYPE, NAMES, SUMS, A, B, E, ADD, SELECTOR)                                          \
  asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " ADD                                                        \
               ", 0;\n"                                                                                           \
               "wgmma.mma_async.sp.sync.aligned.m64n" N "k32.f32." TYPE "." TYPE " {" NAMES "}, " A ", " B ", " E \
               ", " SELECTOR ", add, 1, 1, 0, 0;\n}"                                                              \
               : SUMS                                                                                             \
               : "l"(weights), "l"(tokens), "r"(metadata), "r"(static_cast<int>(add)), "n"(kSelector)             \
               : "memory")

// Adds the product of 64 outputs and kTokens tokens over 32 columns to the sums, or puts it in their place.
template <class T, int kTokens, int kSelector>
__device__ __forceinline__ void wgmma_sp(float (&d)[kTokens / 2], uint64_t weights, uint64_t tokens, uint32_t metadata,
                                         bool add) {
  static_assert(kTokens == 128 || kTokens == 256);
  constexpr bool kHalf = std::is_same_v<T, __half>;
  if constexpr (kTokens == 128 && kHalf) {
    SPARSEKIT_WGMMA_SP("128", "f16", SPARSEKIT_NAMES_64, SPARSEKIT_SUMS_64(0), "%64", "%65", "%66", "%67", "%68");
  } else if constexpr (kTokens == 128) {
    SPARSEKIT_WGMMA_SP("128", "bf16", SPARSEKIT_NAMES_64, SPARSEKIT_SUMS_64(0), "%64", "%65", "%66", "%67", "%68");
  } else if constexpr (kHalf) {
    SPARSEKIT_WGMMA_SP("256", "f16", SPARSEKIT_NAMES_128, SPARSEKIT_SUMS_128, "%128", "%129", "%130", "%131", "%132");
  } else {
    SPARSEKIT_WGMMA_SP("256", "bf16", SPARSEKIT_NAMES_128, SPARSEKIT_SUMS_128, "%128", "%129", "%130", "%131", "%132");
  }
}

}  // namespace sparsekit::cuda
