// Where a byte of a bitmask finds its values.
#pragma once

#include <cstdint>

namespace {

// For each byte of bits, where each of 8 lanes finds its value: its rank among the set bits, or -1.
struct Ranks {
  alignas(64) int8_t rank[256][8];
  constexpr Ranks() : rank() {
    for (int byte = 0; byte < 256; ++byte) {
      int8_t next = 0;
      for (int j = 0; j < 8; ++j) rank[byte][j] = byte >> j & 1 ? next++ : int8_t{-1};
    }
  }
};
constexpr Ranks kRanks;

}  // namespace
