#include "bits.h"
#include "blocks.h"

using namespace native;
using sparsekit::Int8Bitmask;
using sparsekit::Int8BlockCsr;

namespace {

// Makes weight and activations integers, of which each token has one of 127: rounding to 8 bits then changes nothing.
void use_integers(Random& random, Problem& problem) {
  for (float& cell : problem.weight.cells)
    if (cell != 0.0f) cell = static_cast<float>(random.chance(0.5) ? 1 + random.below(127) : -1 - random.below(127));
  const int64_t columns = problem.weight.columns;
  for (int64_t m = 0; m < problem.batch && columns > 0; ++m) {
    for (int64_t k = 0; k < columns; ++k)
      problem.x[m * problem.x_stride + k] = static_cast<float>(random.below(255) - 127);
    problem.x[m * problem.x_stride + random.below(columns)] = random.chance(0.5) ? 127.0f : -127.0f;
  }
}

// Powers of two, by which the rows of the weight that is expected are multiplied.
std::vector<float> scales_of(Random& random, Problem& problem) {
  std::vector<float> scales;
  for (int64_t n = 0; n < problem.weight.rows; ++n) {
    scales.push_back(random.one_of({0.0f, 0.125f, 0.5f, 2.0f}));
    for (int64_t k = 0; k < problem.weight.columns; ++k)
      problem.weight.cells[n * problem.weight.columns + k] *= scales[n];
  }
  return scales;
}

}  // namespace

FAMILY(int8_blocks) {
  Problem problem(random);
  use_integers(random, problem);
  using Sides = std::pair<int64_t, int64_t>;
  const auto sides = random.one_of<Sides>({{1, 4}, {4, 4}, {16, 16}, {5, 8}, {32, 32}, {17, 4}, {64, 12}});
  const Blocks<int8_t> blocks(random, problem.weight, sides);
  const Buffer<float> scales(scales_of(random, problem));
  problem.check(Int8BlockCsr(blocks.places, blocks.values.data(), scales.data()));
  blocks.damage(random);
  refuse_or_run([&] { problem.check(Int8BlockCsr(blocks.places, blocks.values.data(), scales.data())); });
}

FAMILY(int8_dense) {
  Problem problem(random);
  use_integers(random, problem);
  const Buffer<int8_t> values(std::vector<int8_t>(problem.weight.cells.begin(), problem.weight.cells.end()));
  const Buffer<float> scales(scales_of(random, problem));
  problem.check(Int8BlockCsr(problem.weight.rows, problem.weight.columns, values.data(), scales.data()));
}

FAMILY(int8_bitmask) {
  Problem problem(random, 4);
  use_integers(random, problem);
  const Bits<int8_t> map(random, problem.weight);
  const Buffer<float> scales(scales_of(random, problem));
  const Int8Bitmask::Parts parts = {problem.weight.rows, problem.weight.columns, map.values.size(), map.values.data(),
                                    map.bits.data(),     map.offsets.data(),     map.offsets.wide,  scales.data()};
  problem.check(Int8Bitmask(parts));
  map.damage(random);
  refuse_or_run([&] { problem.check(Int8Bitmask(parts)); });
}
