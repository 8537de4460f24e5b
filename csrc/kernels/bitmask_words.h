// Reading the words of a bitmask group.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd/unroll.h"

namespace {

// Column c's 16 bits, from a load that four columns share.
SPARSEKIT_INLINE unsigned word_of(const uint16_t* words, int c) {
  uint64_t four;
  std::memcpy(&four, words + (c & ~3), sizeof four);
  return static_cast<unsigned>(four >> (16 * (c & 3))) & 0xffffu;
}

}  // namespace
