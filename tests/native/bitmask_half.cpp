#include "bits.h"
#include "halves.h"

using namespace native;
using sparsekit::BitmaskHalf;

FAMILY(bitmask_half) {
  Problem problem(random, 40);
  const Weight& weight = problem.weight;
  const HalfOperands operands(problem);
  const Bits<uint16_t> map(random, weight);
  const BitmaskHalf::Parts parts = {weight.rows,     weight.columns,     map.values.size(), map.values.data(),
                                    map.bits.data(), map.offsets.data(), map.offsets.wide};
  check_half(problem, operands, BitmaskHalf(parts));
  map.damage(random);
  refuse_or_run([&] { check_half(problem, operands, BitmaskHalf(parts)); });
}
