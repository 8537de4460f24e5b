// Activations in 8 bits, every token with a step of its own; included after one instruction set and its Bytes.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/product.h"

namespace {

constexpr float kMostStep = 127.0f;
// Tokens all of whose activations are smaller than this get the step of this one: 127 over it is still finite.
constexpr float kLeastSize = 0x1p-100f;

// to[k] = x[k] / step rounded, ties to even, plus Bytes::kOffset; kOffset from `columns` on up to `padded`. Returns the
// step, max |x| / 127; NaN where an activation is not finite, which makes every output of the token NaN.
float quantize_token(const float* x, int64_t columns, int64_t padded, uint8_t* to) {
  constexpr int kWide = Simd::kWidth;
  typename Bytes::Sum most = Bytes::zero();
  int64_t k = 0;
  for (; k + kWide <= columns; k += kWide) most = Bytes::larger(most, Simd::loadu(x + k));
  const int left = static_cast<int>(columns - k);
  if (left > 0) most = Bytes::larger(most, Simd::load_first(x + k, left));
  const int32_t bits = Bytes::largest(most);
  float size;
  std::memcpy(&size, &bits, sizeof size);
  if (!(size >= kLeastSize)) size = kLeastSize;
  const bool finite = bits < 0x7f800000;
  const Simd::Vec scale = Simd::set1(finite ? kMostStep / size : 0.0f);
  for (k = 0; k + kWide <= columns; k += kWide) Bytes::store(to + k, Simd::mul(Simd::loadu(x + k), scale));
  if (left > 0) {
    uint8_t last[kWide];
    Bytes::store(last, Simd::mul(Simd::load_first(x + k, left), scale));
    std::memcpy(to + k, last, static_cast<std::size_t>(left));
  }
  std::memset(to + columns, Bytes::kOffset, static_cast<std::size_t>(padded - columns));
  return finite ? size / kMostStep : std::numeric_limits<float>::quiet_NaN();
}

}  // namespace
