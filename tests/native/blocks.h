// A weight in blocks, in buffers that can be damaged. Weights outside the blocks are made 0.
#pragma once

#include <utility>

#include "native.h"

namespace native {

inline std::pair<int64_t, int64_t> block_sides(Random& random) {
  using Sides = std::pair<int64_t, int64_t>;
  return random.one_of<Sides>({{1, 1},
                               {2, 2},
                               {5, 3},
                               {8, 1},
                               {1, 16},
                               {16, 1},
                               {16, 16},
                               {24, 7},
                               {32, 8},
                               {40, 4},
                               {64, 64},
                               {4, 1},
                               {1, 9}});
}

// `Number` is float, uint16_t for bfloat16, or int8_t for weights that are integers.
template <class Number>
struct Blocks {
  int64_t high, wide;
  Offsets offsets;
  Buffer<int32_t> indices;
  Buffer<Number> values;
  sparsekit::BlockPlaces places;

  Blocks(Random& random, Weight& weight, std::pair<int64_t, int64_t> sides)
      : Blocks(random, weight, sides, laid_out(random, weight, sides)) {}

  void damage(Random& random) const {
    if (indices.size() == 0 || random.chance(0.5)) return offsets.damage(random);
    indices[random.below(indices.size())] = random.one_of({-1, 0, 1, 3, 1000, 1 << 30});
  }

  // Calls `body` while the last block lies right of the weight, which kernels that clip blocks survive.
  void misplaced(const std::function<void()>& body) const {
    if (indices.size() == 0) return;
    int32_t& last = indices[indices.size() - 1];
    const int32_t before = last;
    last = static_cast<int32_t>((places.columns + wide - 1) / wide);
    body();
    last = before;
  }

 private:
  struct Lists {
    std::vector<int64_t> first = {0};
    std::vector<int32_t> columns;
    std::vector<Number> values;
  };

  Blocks(Random& random, const Weight& weight, std::pair<int64_t, int64_t> sides, const Lists& lists)
      : high(sides.first),
        wide(sides.second),
        offsets(random, lists.first),
        indices(lists.columns),
        values(lists.values, 64),
        places{weight.rows, weight.columns, high, wide, indices.size(), indices.data(), offsets.data(), offsets.wide} {}

  static Lists laid_out(Random& random, Weight& weight, std::pair<int64_t, int64_t> sides) {
    const auto [high, wide] = sides;
    const double kept = random.one_of({0.0, 0.1, 0.5, 1.0});
    Lists lists;
    for (int64_t top = 0; top < weight.rows; top += high) {
      for (int64_t left = 0; left < weight.columns; left += wide) {
        const bool stays = random.chance(kept);
        if (stays) lists.columns.push_back(static_cast<int32_t>(left / wide));
        for (int64_t k = left; k < left + wide; ++k)
          for (int64_t n = top; n < top + high; ++n) {
            const bool inside = n < weight.rows && k < weight.columns;
            if (inside && !stays) weight.cells[n * weight.columns + k] = 0.0f;
            if (stays) lists.values.push_back(stored<Number>(inside ? weight.at(n, k) : 0.0f));
          }
      }
      lists.first.push_back(static_cast<int64_t>(lists.columns.size()));
    }
    return lists;
  }
};

}  // namespace native
