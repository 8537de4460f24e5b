#include "halves.h"

using namespace native;
using sparsekit::Nm;

namespace {

// N of M as sparsekit/formats/nm.py stores them: of each group the n columns [first, first + n) modulo m are kept.
struct Groups {
  int64_t n, m, kept, tail_columns;
  int bits = 0;
  Buffer<float> values;
  Buffer<uint8_t> positions;
  Buffer<float> tail;
  Nm::Parts parts;

  Groups(Random& random, Weight& weight, std::pair<int64_t, int64_t> of)
      : n(of.first),
        m(of.second),
        kept(weight.columns / m * n),
        tail_columns(weight.columns % m),
        values(weight.rows * kept),
        positions(weight.rows * bytes_of_row()),
        tail(weight.rows * tail_columns) {
    positions.fill(0);
    for (int64_t row = 0; row < weight.rows; ++row) {
      for (int64_t group = 0; group < weight.columns / m; ++group) store(weight, row, group, random.below(m));
      for (int64_t k = 0; k < tail_columns; ++k)
        tail[row * tail_columns + k] = weight.at(row, weight.columns - tail_columns + k);
    }
    parts = {weight.rows, weight.columns, n, m, values.data(), positions.data(), tail.data()};
  }

 private:
  int64_t bytes_of_row() {
    while ((int64_t{1} << bits) < m) ++bits;
    return (kept * bits + 7) / 8;
  }

  void store(Weight& weight, int64_t row, int64_t group, int64_t first) const {
    int64_t i = group * n;
    for (int64_t k = 0; k < m; ++k) {
      float& cell = weight.cells[row * weight.columns + group * m + k];
      if ((k - first + m) % m >= n) {
        cell = 0.0f;
        continue;
      }
      values[row * kept + i] = cell;
      for (int b = 0; b < bits; ++b) {
        uint8_t& byte = positions[row * ((kept * bits + 7) / 8) + (i * bits + b) / 8];
        byte = static_cast<uint8_t>(byte | (k >> b & 1) << (i * bits + b) % 8);
      }
      ++i;
    }
  }
};

}  // namespace

FAMILY(nm) {
  using Sides = std::pair<int64_t, int64_t>;
  const Sides sides = random.one_of<Sides>({{2, 4}, {1, 2}, {1, 4}, {1, 1}, {3, 4}, {4, 8}, {5, 7}, {2, 3}, {8, 16}});
  Problem problem(random, 9);
  const Groups groups(random, problem.weight, sides);
  problem.check(Nm(groups.parts));
  const HalfOperands halves(problem);
  check_half(problem, halves, Nm(groups.parts));
  if (groups.positions.size() == 0) return;
  groups.positions[random.below(groups.positions.size())] = static_cast<uint8_t>(random.below(256));
  refuse_or_run([&] { problem.check(Nm(groups.parts)); });
  if ((sides.second & (sides.second - 1)) == 0) return;
  groups.positions[0] = 255;  // a position of all ones lies beyond a group whose size is no power of two
  refuse([&] { Nm{groups.parts}; });
}
