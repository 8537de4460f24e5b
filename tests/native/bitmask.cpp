#include "native.h"

using namespace native;
using sparsekit::Bitmask;

FAMILY(bitmask) {
  const Problem problem(random, 5);
  const Weight& weight = problem.weight;
  const int64_t words = (weight.columns + 15) / 16;
  std::vector<float> kept;
  std::vector<int64_t> first = {0};
  const Buffer<uint16_t> bits(weight.rows * words);
  bits.fill(0);
  for (int64_t n = 0; n < weight.rows; ++n) {
    for (int64_t k = 0; k < weight.columns; ++k)
      if (weight.at(n, k) != 0.0f) {
        kept.push_back(weight.at(n, k));
        bits[n * words + k / 16] = static_cast<uint16_t>(bits[n * words + k / 16] | 1 << k % 16);
      }
    first.push_back(static_cast<int64_t>(kept.size()));
  }
  const Buffer<float> values(kept);
  const Offsets offsets(random, first);
  const Bitmask::Parts parts = {weight.rows, weight.columns, values.size(), values.data(),
                                bits.data(), offsets.data(), offsets.wide};
  problem.check(Bitmask(parts));
  if (bits.size() != 0 && random.chance(0.5))
    bits[random.below(bits.size())] = static_cast<uint16_t>(random.below(1 << 16));
  else
    offsets.damage(random);
  refuse_or_run([&] { problem.check(Bitmask(parts)); });
}
