// What is handed over from outside is checked here before anything behind its address is read.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>

#include "core/check.h"

namespace sparsekit {

using Memory = std::pair<std::uintptr_t, int64_t>;  // address, bytes

// Most rows, columns, or side of a block: indices have 31 bits, and the product of two sizes has no more than 62.
constexpr int64_t kMostSize = (int64_t{1} << 31) - 1;

inline void check_sizes(const std::string& what, std::initializer_list<int64_t> sizes) {
  for (const int64_t size : sizes)
    if (size < 0 || size > kMostSize)
      check(false, what + ": expected sizes from 0 to " + std::to_string(kMostSize) + ", got " + std::to_string(size));
}

// `a` times `b`, both at least 0, refused where 63 bits do not hold it.
inline int64_t product_of(const std::string& what, int64_t a, int64_t b) {
  int64_t result = 0;
  check(!__builtin_mul_overflow(a, b, &result),
        what + ": expected a size that 63 bits hold, got " + std::to_string(a) + " times " + std::to_string(b));
  return result;
}

// The elements that `memory` must hold, no fewer and no more.
template <class T>
const T* elements(const std::string& what, const Memory& memory, int64_t count) {
  const auto [address, bytes] = memory;
  if (count < 0) check(false, what + ": expected a number of elements from 0 on, got " + std::to_string(count));
  const int64_t wanted = product_of(what, count, static_cast<int64_t>(sizeof(T)));
  if (bytes != wanted || (count > 0 && address == 0))
    check(false, what + ": expected " + std::to_string(count) + " elements of " + std::to_string(sizeof(T)) +
                     " bytes, got " + std::to_string(address == 0 ? 0 : bytes) + " bytes");
  if (address % alignof(T) != 0)
    check(false, what + ": expected an address that is a multiple of " + std::to_string(alignof(T)) + ", got " +
                     std::to_string(address));
  return reinterpret_cast<const T*>(address);
}

// Elements of four bytes where `wide` says so, else of two.
inline const void* indices(const std::string& what, const Memory& memory, int64_t count, bool wide) {
  if (wide) return elements<int32_t>(what, memory, count);
  return elements<uint16_t>(what, memory, count);
}

// The `count` + 1 offsets of so many rows, of eight bytes where `wide` says so, else of four.
inline const void* offsets(const std::string& what, const Memory& memory, int64_t count, bool wide) {
  if (wide) return elements<int64_t>(what, memory, count + 1);
  return elements<int32_t>(what, memory, count + 1);
}

}  // namespace sparsekit
