// The bits of a packed weight, as the bitmask formats store them: a row's words of 16 columns, the first lowest.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/check.h"

namespace sparsekit {

constexpr int64_t kBitsWord = 16;

inline int64_t bits_words(int64_t columns) { return (columns + kBitsWord - 1) / kBitsWord; }

// Refuses bits of which a row has others than its offsets say, or some beyond the last column.
inline void check_bits(const std::string& format, const uint16_t* bits, const std::vector<int64_t>& offsets,
                       int64_t columns) {
  const int64_t words = bits_words(columns), spare = words * kBitsWord - columns;
  for (std::size_t row = 0; row + 1 < offsets.size(); ++row, bits += words) {
    const int64_t stored = offsets[row + 1] - offsets[row];
    int64_t marked = 0;
    for (int64_t g = 0; g < words; ++g) marked += __builtin_popcount(bits[g]);
    if (marked != stored)
      check(false, format + ": row " + std::to_string(row) + ": expected as many bits as the offsets say, " +
                       std::to_string(stored) + ", got " + std::to_string(marked));
    if (spare != 0 && bits[words - 1] >> (kBitsWord - spare) != 0)
      check(false, format + ": row " + std::to_string(row) + ": expected no bits beyond the last column, " +
                       std::to_string(columns - 1) + ", got some");
  }
}

// Calls each(column) for the set bits of one row, ascending.
template <class Each>
void for_bits(const uint16_t* row, int64_t words, Each each) {
  for (int64_t g = 0; g < words; ++g)
    for (unsigned left = row[g]; left != 0; left &= left - 1) each(g * kBitsWord + __builtin_ctz(left));
}

}  // namespace sparsekit
