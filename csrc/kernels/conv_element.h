// What the panels and the results of a convolution hold; included after one instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace {

using Vec = Simd::Vec;
constexpr int kWidth = Simd::kWidth;

// A line of a panel has kChannels input channels side by side in each lane.
struct Fp32 {
  using Scalar = float;
  static constexpr int kChannels = 1;
  static Vec load(const float* x, const float*, std::ptrdiff_t step, Simd::Steps chosen) {
    return Simd::load_steps(x, step, chosen);
  }
  static void load_second(const float* x, const float*, const Simd::Steps* chosen, Vec* out) {
    Simd::load_second(x, chosen, out);
  }
  static Vec mac(Vec weight, Vec line, Vec sum) { return Simd::fma(weight, line, sum); }
  static void store(float* y, Vec v, Simd::Lanes lanes) { Simd::store_lanes(y, v, lanes); }
};

struct Bf16 {
  using Scalar = uint16_t;
  static constexpr int kChannels = 2;
  static Vec load(const uint16_t* x, const uint16_t* next, std::ptrdiff_t step, Simd::Steps chosen) {
    return Simd::load_pairs(x, next, step, chosen);
  }
  static void load_second(const uint16_t* x, const uint16_t* next, const Simd::Steps* chosen, Vec* out) {
    Simd::load_second_pairs(x, next, chosen, out);
  }
  static Vec mac(Vec weight, Vec line, Vec sum) { return Simd::mac_pairs(weight, line, sum); }
  static void store(uint16_t* y, Vec v, Simd::Lanes lanes) { Simd::store_halves(y, v, lanes); }
};

}  // namespace
