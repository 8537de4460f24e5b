// Loops over registers must be unrolled whole, or the compiler keeps the sums in memory.
#pragma once

#define SPARSEKIT_UNROLL _Pragma("GCC unroll 64")
#define SPARSEKIT_INLINE inline __attribute__((always_inline))
// The same for a lambda, behind its parameters.
#define SPARSEKIT_INLINED __attribute__((always_inline))
