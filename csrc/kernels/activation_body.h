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

void round_to_halves(const float* sums, const uint16_t* bias, const uint16_t* residual, uint16_t* y, int64_t count,
                     sparsekit::Activation activation) {
  for (int64_t i = 0; i < count; i += Simd::kWidth) {
    const Simd::Lanes lanes = Simd::lanes(0, static_cast<int>(count - i < Simd::kWidth ? count - i : Simd::kWidth));
    Simd::Vec v = Simd::load_lanes(sums + i, lanes);
    if (bias != nullptr) v = Simd::add(v, Simd::load_halves(bias + i, lanes));
    v = activated(v, activation);
    if (residual != nullptr) v = Simd::add(v, Simd::load_halves(residual + i, lanes));
    Simd::store_halves(y + i, v, lanes);
  }
}

constexpr sparsekit::ActivationKernels kActivationKernels = {apply, round_to_halves};

}  // namespace
