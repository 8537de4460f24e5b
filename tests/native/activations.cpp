#include "native.h"

using namespace native;
using sparsekit::Activation;

namespace {

double exact_of(double v, Activation activation) {
  switch (activation) {
    case Activation::none: return v;
    case Activation::relu: return std::max(v, 0.0);
    case Activation::silu: return v / (1 + std::exp(-v));
    case Activation::gelu: return 0.5 * v * std::erfc(-v / std::sqrt(2.0));
    default: return 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
  }
}

}  // namespace

FAMILY(activations) {
  const int64_t count = random.size();
  const Activation activation =
      random.one_of({Activation::none, Activation::relu, Activation::silu, Activation::gelu, Activation::gelu_tanh});
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
    const double exact = exact_of(sums[i], activation), rounded = exact_of(shifted, activation) + added;
    expect(std::abs(y[i] - (exact + added)) <= 3e-6 * (1 + std::abs(exact) + std::abs(added)), "activation in fp32");
    expect(std::abs(widened(half[i]) - rounded) <= 0x1p-8 * std::abs(rounded) + 3e-6 * (1 + std::abs(shifted)),
           "activation in bfloat16");
  }
}
