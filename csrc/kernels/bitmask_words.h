// Reading the words of a bitmask group.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd/unroll.h"

namespace {

// Row r's 16 bits, from a load that four rows share.
SPARSEKIT_INLINE unsigned word_of(const uint16_t* words, int r) {
  uint64_t four;
  std::memcpy(&four, words + (r & ~3), sizeof four);
  return static_cast<unsigned>(four >> (16 * (r & 3))) & 0xffffu;
}

}  // namespace
