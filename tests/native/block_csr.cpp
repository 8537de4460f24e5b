#include "blocks.h"

using namespace native;
using sparsekit::BlockCsr;

FAMILY(block_csr) {
  Problem problem(random);
  const Blocks<float> blocks(random, problem.weight, block_sides(random));
  problem.check(BlockCsr(blocks.places, blocks.values.data()));
  blocks.misplaced([&] { refuse([&] { BlockCsr(blocks.places, blocks.values.data()); }); });
  blocks.damage(random);
  refuse_or_run([&] { problem.check(BlockCsr(blocks.places, blocks.values.data())); });
}
