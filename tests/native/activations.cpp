#include "native.h"

using namespace native;

FAMILY(activations) {
  const int64_t count = random.size();
  const sparsekit::Activation activation = some_activation(random);
  const Buffer<float> sums(count), y(count), residual(random.chance(0.5) ? count : 0);
  const Buffer<uint16_t> bias(random.chance(0.5) ? count : 0), half_residual(residual.size()), half(count);
  for (int64_t i = 0; i < count; ++i) sums[i] = y[i] = random.number() * random.one_of({0.1f, 1.0f, 30.0f});
  for (int64_t i = 0; i < bias.size(); ++i) bias[i] = halved(random.number());
  for (int64_t i = 0; i < residual.size(); ++i) residual[i] = widened(half_residual[i] = halved(random.number()));
  half.fill(0x7fff);
  const sparsekit::ActivationKernels& kernels = sparsekit::best_activation();
  kernels.apply(y.data(), residual.data(), count, activation);
  kernels.round(sums.data(), bias.data(), half_residual.data(), half.data(), count, activation);
  for (int64_t i = 0; i < count; ++i) {
    const double added = residual.size() ? residual[i] : 0.0,
                 shifted = bias.size() ? sums[i] + widened(bias[i]) : sums[i];
    const double exact = activated(sums[i], activation), half_exact = activated(shifted, activation);
    const std::string which = "activation " + std::to_string(static_cast<int>(activation)) + ", number " +
                              std::to_string(i) + " of " + std::to_string(count);
    expect_near(y[i], exact + added, 3e-6 * (1 + std::abs(exact) + std::abs(added)), which + " in fp32");
    // GELU that is rounded to bfloat16 is right to 2e-4 of itself.
    const double bound = 0x1p-8 * std::abs(half_exact + added) + 0x1p-12 * std::abs(half_exact);
    expect_near(widened(half[i]), half_exact + added, bound + 3e-6 * (1 + std::abs(shifted)), which + " in bfloat16");
  }
}
