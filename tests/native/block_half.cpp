#include "blocks.h"
#include "halves.h"

using namespace native;
using sparsekit::BlockHalf;

namespace {

void check_blocks(Random& random, bool emulated) {
  Problem problem(random);
  const Blocks<uint16_t> blocks(random, problem.weight, block_sides(random));
  const HalfOperands operands(problem);
  check_half(problem, operands, BlockHalf(blocks.places, blocks.values.data(), emulated));
  blocks.damage(random);
  refuse_or_run([&] { check_half(problem, operands, BlockHalf(blocks.places, blocks.values.data(), emulated)); });
}

}  // namespace

FAMILY(block_half) { check_blocks(random, false); }

// The kernel for tiles on any processor: what the tiles do is computed without them.
FAMILY(block_half_emulated) { check_blocks(random, true); }
