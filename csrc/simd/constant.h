// A number of registers is known to the compiler: one copy of the code for each.
#pragma once

#include <type_traits>

namespace {

// Calls body(constant) with the constant that `value`, in [1, most], is at run time.
template <int kMost, class Body>
void with_constant(int value, Body body) {
  if constexpr (kMost > 1) {
    if (value < kMost) return with_constant<kMost - 1>(value, body);
  }
  body(std::integral_constant<int, kMost>());
}

}  // namespace
