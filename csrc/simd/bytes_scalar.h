// Products of bytes in sums of 32 bits, for any processor. After simd/scalar.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "simd/scalar.h"

namespace {

struct Bytes {
  static constexpr int kOffset = 0;
  typedef int32_t Sum __attribute__((vector_size(16)));  // 4 sums
  struct Weights {
    int8_t w[16];
  };
  static Weights load(const int8_t* p) {
    Weights weights;
    std::memcpy(weights.w, p, sizeof weights.w);
    return weights;
  }
  static Sum dot(Sum sum, const Weights& w, const uint8_t* four) {
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 4; ++j) sum[i] += w.w[4 * i + j] * static_cast<int8_t>(four[j]);
    return sum;
  }
  static Sum loadu(const int32_t* p) {
    Sum sum;
    std::memcpy(&sum, p, sizeof sum);
    return sum;
  }
  static Simd::Vec floats(Sum sum) {
    Simd::Vec v;
    for (int i = 0; i < 4; ++i) v[i] = static_cast<float>(sum[i]);
    return v;
  }
  // The greater of `most` and the size of v, as the bits of a float: NaN is greater than infinity.
  static Sum zero() { return Sum{0, 0, 0, 0}; }
  static Sum larger(Sum most, Simd::Vec v) {
    Sum bits;
    std::memcpy(&bits, &v, sizeof bits);
    for (int i = 0; i < 4; ++i) most[i] = (bits[i] & 0x7fffffff) > most[i] ? bits[i] & 0x7fffffff : most[i];
    return most;
  }
  static int32_t largest(Sum most) {
    int32_t found = most[0];
    for (int i = 1; i < 4; ++i) found = most[i] > found ? most[i] : found;
    return found;
  }
  // Rounds 4 floats within 127 to bytes, ties to even; of a float that is no number, to anything.
  static void store(uint8_t* p, Simd::Vec v) {
    for (int i = 0; i < 4; ++i) {
      const bool within = v[i] >= -127.5f && v[i] <= 127.5f;
      p[i] = static_cast<uint8_t>(static_cast<int8_t>(within ? std::nearbyintf(v[i]) : 0.0f));
    }
  }
};

}  // namespace
