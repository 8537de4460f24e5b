// Refusals of the C++ layer. Checked once when a packed weight is bound, never in a hot loop.
#pragma once

#include <stdexcept>
#include <string>

namespace sparsekit {

inline void check(bool holds, const std::string& message) {
  if (!holds) throw std::invalid_argument(message);
}

}  // namespace sparsekit
