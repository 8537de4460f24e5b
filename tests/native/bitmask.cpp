#include "bits.h"
#include "halves.h"

using namespace native;
using sparsekit::Bitmask;

FAMILY(bitmask) {
  const Problem problem(random, 5);
  const Weight& weight = problem.weight;
  const Bits<float> map(random, weight);
  const Bitmask::Parts parts = {weight.rows,     weight.columns,     map.values.size(), map.values.data(),
                                map.bits.data(), map.offsets.data(), map.offsets.wide};
  problem.check(Bitmask(parts));
  const HalfOperands halves(problem);
  check_half(problem, halves, Bitmask(parts));
  map.damage(random);
  refuse_or_run([&] { problem.check(Bitmask(parts)); });
}
