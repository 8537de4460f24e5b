// Activations of one vector; included after one instruction set.
#pragma once

#include <initializer_list>

#include "kernels/activation.h"
#include "simd/unroll.h"

namespace {

// e^v for v in [-87, 87], to about two units in the last place: a polynomial on [-ln 2 / 2, ln 2 / 2].
Simd::Vec exponential(Simd::Vec v) {
  const Simd::Vec n = Simd::round(Simd::mul(v, Simd::set1(1.44269504f)));
  Simd::Vec rest = Simd::fma(n, Simd::set1(-0.693359375f), v);
  rest = Simd::fma(n, Simd::set1(2.12194440e-4f), rest);
  Simd::Vec sum = Simd::set1(1.0f / 720);
  for (const float factor : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
    sum = Simd::fma(sum, rest, Simd::set1(factor));
  return Simd::scale(sum, n);
}

Simd::Vec negated(Simd::Vec v) { return Simd::mul(v, Simd::set1(-1.0f)); }

// v times the logistic function of `argument`.
Simd::Vec weighted(Simd::Vec v, Simd::Vec argument) {
  const Simd::Vec power = Simd::max(Simd::min(negated(argument), Simd::set1(87.0f)), Simd::set1(-87.0f));
  return Simd::div(v, Simd::add(Simd::set1(1.0f), exponential(power)));
}

// v Phi(v) = max(v, 0) - |v| (1 - erf(|v| / sqrt 2)) / 2, the complement to 1.5e-7: Abramowitz and Stegun 1964, 7.1.26.
Simd::Vec gelu(Simd::Vec v) {
  const Simd::Vec size = Simd::min(Simd::max(v, negated(v)), Simd::set1(13.0f));  // beyond, the complement is 0
  const Simd::Vec z = Simd::mul(size, Simd::set1(0.70710678f));
  const Simd::Vec t = Simd::div(Simd::set1(1.0f), Simd::fma(z, Simd::set1(0.3275911f), Simd::set1(1.0f)));
  Simd::Vec sum = Simd::set1(1.061405429f);
  for (const float factor : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f, 0.0f})
    sum = Simd::fma(sum, t, Simd::set1(factor));
  const Simd::Vec complement = Simd::mul(sum, exponential(Simd::mul(z, negated(z))));
  return Simd::fma(Simd::mul(size, complement), Simd::set1(-0.5f), Simd::max(Simd::zero(), v));
}

Simd::Vec gelu_tanh(Simd::Vec v) {
  const Simd::Vec cubic = Simd::fma(Simd::mul(v, v), Simd::set1(0.044715f), Simd::set1(1.0f));
  return weighted(v, Simd::mul(Simd::mul(v, Simd::set1(1.59576912f)), cubic));
}

// Far below 0 results are 0 up to rounding: limits make them so for -inf as well, where torch has NaN. NaN stays NaN.
Simd::Vec activated(Simd::Vec v, sparsekit::Activation activation) {
  switch (activation) {
    case sparsekit::Activation::none: return v;
    case sparsekit::Activation::relu: return Simd::max(Simd::zero(), v);
    case sparsekit::Activation::silu: v = Simd::max(Simd::set1(-87.0f), v); return weighted(v, v);
    case sparsekit::Activation::gelu: return gelu(v);
    default: return gelu_tanh(Simd::max(Simd::set1(-13.0f), v));
  }
}

}  // namespace
