// Activations in place, written once over `Simd`; each translation unit includes one instruction set before this.
#pragma once

#include "kernels/activation_vectors.h"

namespace {

void apply(float* y, int64_t count, sparsekit::Activation activation) {
  int64_t i = 0;
  for (; i + Simd::kWidth <= count; i += Simd::kWidth) Simd::storeu(y + i, activated(Simd::loadu(y + i), activation));
  const int left = static_cast<int>(count - i);
  if (left > 0) Simd::store_first(y + i, activated(Simd::load_first(y + i, left), activation), left);
}

constexpr sparsekit::ActivationKernels kActivationKernels = {apply};

}  // namespace
