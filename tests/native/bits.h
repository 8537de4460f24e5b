// A weight as kept values and a map of bits, in buffers that can be damaged. `Number` is float, uint16_t for
// bfloat16, or int8_t for weights that are integers.
#pragma once

#include "native.h"

namespace native {

template <class Number>
struct Bits {
  Buffer<uint16_t> bits;
  Buffer<Number> values;
  Offsets offsets;

  Bits(Random& random, const Weight& weight) : Bits(random, lists_of(weight)) {}

  void damage(Random& random) const {
    if (bits.size() != 0 && random.chance(0.5))
      bits[random.below(bits.size())] = static_cast<uint16_t>(random.below(1 << 16));
    else
      offsets.damage(random);
  }

 private:
  struct Lists {
    std::vector<uint16_t> bits;
    std::vector<Number> values;
    std::vector<int64_t> first = {0};
  };

  Bits(Random& random, const Lists& lists) : bits(lists.bits), values(lists.values), offsets(random, lists.first) {}

  static Lists lists_of(const Weight& weight) {
    Lists lists;
    for (int64_t n = 0; n < weight.rows; ++n) {
      for (int64_t k = 0; k < weight.columns; ++k) {
        if (k % 16 == 0) lists.bits.push_back(0);
        if (weight.at(n, k) == 0.0f) continue;
        lists.values.push_back(stored<Number>(weight.at(n, k)));
        lists.bits.back() = static_cast<uint16_t>(lists.bits.back() | 1 << k % 16);
      }
      lists.first.push_back(static_cast<int64_t>(lists.values.size()));
    }
    return lists;
  }
};

}  // namespace native
