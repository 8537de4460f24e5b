// Fragments in registers, as the PTX ISA 9.1 documents them; sections are named as in instructions.py.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>
#include <string>

#include "emulator.h"

namespace emulator {

inline double value_of(__half value) { return __half2float(value); }
inline double value_of(__nv_bfloat16 value) { return __bfloat162float(value); }

// Element `i` of registers or memory that hold elements of 16 bits.
template <class T>
double element(const void* from, int i) {
  T found;
  std::memcpy(&found, static_cast<const uint8_t*>(from) + i * 2, 2);
  return value_of(found);
}

// Where in its chunk of four columns kept value `which` of a row stands (9.7.14.6.1, figure 122).
inline int position(const uint32_t* metadata, int selector, int row, int chunk, int which) {
  const uint32_t word = metadata[row % 8 * 4 + selector * 2 + chunk / 4];
  const int code = word >> (row / 8 * 16 + chunk % 4 * 4) & 15, first = code & 3, second = code >> 2;
  if (first >= second) fail("metadata " + std::to_string(code) + " names no two columns in order");
  return which == 0 ? first : second;
}

}  // namespace emulator
