#include "blocks.h"

using namespace native;
using sparsekit::BlockGrad;

namespace {

// The gradient of the input: grad W.
void check_spread(const Problem& p, const BlockGrad& grad, const Buffer<float>& values) {
  const Weight& weight = p.weight;
  const Buffer<float> from(p.batch * weight.rows), to(p.batch * weight.columns);
  for (int64_t i = 0; i < from.size(); ++i) from[i] = static_cast<float>(i % 13 - 6);
  to.fill(std::numeric_limits<float>::quiet_NaN());
  grad.spread({from.data(), weight.rows, p.batch, values.data(), to.data()});
  for (int64_t m = 0; m < p.batch; ++m)
    for (int64_t k = 0; k < weight.columns; ++k) {
      double exact = 0, scale = 0;
      for (int64_t n = 0; n < weight.rows; ++n) {
        const double term = static_cast<double>(from[m * weight.rows + n]) * weight.at(n, k);
        exact += term;
        scale += std::abs(term);
      }
      judge(to[m * weight.columns + k], exact, scale, weight.rows, 0x1p-23, "gradient of x");
    }
}

// The gradient of the values: grad^T x at the blocks.
void check_sample(const Problem& p, const Blocks<float>& blocks, const BlockGrad& grad,
                  const std::vector<int64_t>& row_of) {
  const Weight& weight = p.weight;
  const Buffer<float> from(p.batch * weight.rows), values(blocks.values.size());
  for (int64_t i = 0; i < from.size(); ++i) from[i] = static_cast<float>(i % 11 - 5);
  values.fill(std::numeric_limits<float>::quiet_NaN());
  grad.sample({from.data(), weight.rows, p.x.data(), p.x_stride, p.batch, values.data()});
  for (int64_t slot = 0; slot < values.size(); ++slot) {
    const int64_t b = slot / (blocks.high * blocks.wide), in_block = slot % (blocks.high * blocks.wide);
    const int64_t n = row_of[b] * blocks.high + in_block % blocks.high;
    const int64_t k = blocks.indices[b] * blocks.wide + in_block / blocks.high;
    double exact = 0, scale = 0;
    for (int64_t m = 0; m < p.batch && n < weight.rows && k < weight.columns; ++m) {
      const double term = static_cast<double>(from[m * weight.rows + n]) * p.x[m * p.x_stride + k];
      exact += term;
      scale += std::abs(term);
    }
    judge(values[slot], exact, scale, p.batch, 0x1p-23, "gradient of a value");
  }
}

}  // namespace

FAMILY(block_grad) {
  Problem problem(random);
  const Blocks<float> blocks(random, problem.weight, block_sides(random));
  std::vector<int64_t> row_of;
  for (int64_t row = 0, b = 0; b < blocks.indices.size(); ++row)
    for (; b < (blocks.offsets.wide ? blocks.offsets.wide_ones[row + 1] : blocks.offsets.narrow_ones[row + 1]); ++b)
      row_of.push_back(row);
  if (problem.batch == 0) return;  // the gradients of no tokens are not asked for
  const BlockGrad grad(blocks.places);
  check_spread(problem, grad, blocks.values);
  check_sample(problem, blocks, grad, row_of);
  blocks.damage(random);
  refuse_or_run([&] { check_spread(problem, BlockGrad(blocks.places), blocks.values); });
}
