#include "blocks.h"
#include "images.h"

using namespace native;
using sparsekit::ConvBlocks;

namespace {

template <class Number>
void check_blocks(Random& random, std::pair<int64_t, int64_t> sides) {
  constexpr bool kHalf = sizeof(Number) == 2;
  Images<Number> images(random, conv_shape(random, false), random.one_of<int64_t>({1, 2, 7, 33, 70}));
  const Blocks<Number> blocks(random, images.weight, sides);
  images.check(ConvBlocks(blocks.places, blocks.values.data(), kHalf, images.shape));
  blocks.damage(random);
  refuse_or_run([&] { images.check(ConvBlocks(blocks.places, blocks.values.data(), kHalf, images.shape)); });
}

}  // namespace

FAMILY(conv_blocks) {
  const auto sides = block_sides(random);
  check_blocks<float>(random, random.chance(0.3) ? std::make_pair<int64_t, int64_t>(1, 9) : sides);
}

FAMILY(conv_blocks_bf16) {
  const auto [high, wide] = block_sides(random);
  check_blocks<uint16_t>(random, {std::max<int64_t>(2, high), wide});
}
