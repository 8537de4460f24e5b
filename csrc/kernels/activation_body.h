// How a result is finished, written once over `Simd`; each translation unit includes one instruction set before this.
#pragma once

#include "kernels/activation_vectors.h"

namespace {

void apply(float* y, const float* residual, int64_t count, sparsekit::Activation activation) {
  for (int64_t i = 0; i < count; i += Simd::kWidth) {
    const Simd::Lanes lanes = Simd::lanes(0, static_cast<int>(count - i < Simd::kWidth ? count - i : Simd::kWidth));
    Simd::Vec v = activated(Simd::load_lanes(y + i, lanes), activation);
    if (residual != nullptr) v = Simd::add(v, Simd::load_lanes(residual + i, lanes));
    Simd::store_lanes(y + i, v, lanes);
  }
}

// GELU for a result that is rounded to bfloat16, in about half the operations of gelu: e^(-v^2 / 2) as a power of 2,
// and the complement as a shorter sum, fitted so that it is right to 2e-4 of itself however small it is.
Simd::Vec short_gelu(Simd::Vec v) {
  const Simd::Vec size = Simd::min(Simd::max(v, negated(v)), Simd::set1(13.0f));
  const Simd::Vec t = Simd::div(Simd::set1(1.0f), Simd::fma(size, Simd::set1(0.29698485f), Simd::set1(1.0f)));
  Simd::Vec sum = Simd::set1(-0.22168957f);  // with the factor -1 / 2
  for (const float factor : {-0.02022277f, -0.14182884f, -0.11631031f, 0.0f})
    sum = Simd::fma(sum, t, Simd::set1(factor));
  const Simd::Vec power = Simd::mul(Simd::mul(size, size), Simd::set1(-0.72134752f));
  const Simd::Vec n = Simd::round(power);
  const Simd::Vec rest = Simd::fma(n, Simd::set1(-1.0f), power);
  Simd::Vec two = Simd::set1(0.05517134f);
  for (const float factor : {0.24261117f, 0.69326103f, 0.99992806f}) two = Simd::fma(two, rest, Simd::set1(factor));
  return Simd::fma(Simd::mul(size, sum), Simd::scale(two, n), Simd::max(Simd::zero(), v));
}

void round_to_halves(const float* sums, const uint16_t* bias, const uint16_t* residual, uint16_t* y, int64_t count,
                     sparsekit::Activation activation) {
  for (int64_t i = 0; i < count; i += Simd::kWidth) {
    const Simd::Lanes lanes = Simd::lanes(0, static_cast<int>(count - i < Simd::kWidth ? count - i : Simd::kWidth));
    Simd::Vec v = Simd::load_lanes(sums + i, lanes);
    if (bias != nullptr) v = Simd::add(v, Simd::load_halves(bias + i, lanes));
    v = activation == sparsekit::Activation::gelu ? short_gelu(v) : activated(v, activation);
    if (residual != nullptr) v = Simd::add(v, Simd::load_halves(residual + i, lanes));
    Simd::store_halves(y + i, v, lanes);
  }
}

constexpr sparsekit::ActivationKernels kActivationKernels = {apply, round_to_halves};

}  // namespace
