// What the tile registers of `amx.h` do, in plain C++: for tests, and to judge a processor's own.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

struct Tiles {
  static void configure() {}
  static void release() {}
  template <int kTile>
  static void zero() {
    std::memset(tile(kTile), 0, kBytes);
  }
  template <int kTile>
  static void load(const void* from, int64_t stride) {
    for (int i = 0; i < 16; ++i) std::memcpy(tile(kTile) + 16 * i, static_cast<const char*>(from) + i * stride, 64);
  }
  template <int kTile>
  static void store(void* to, int64_t stride) {
    for (int i = 0; i < 16; ++i) std::memcpy(static_cast<char*>(to) + i * stride, tile(kTile) + 16 * i, 64);
  }
  template <int kSum, int kX, int kW>
  static void mac_pairs() {
    for (int m = 0; m < 16; ++m)
      for (int k = 0; k < 16; ++k)
        for (int n = 0; n < 16; ++n) {
          const uint32_t x = tile(kX)[16 * m + k], w = tile(kW)[16 * k + n];
          float sum = number(tile(kSum)[16 * m + n]);
          sum += half(w << 16) * half(x << 16);
          sum += half(w & 0xffff0000u) * half(x & 0xffff0000u);
          std::memcpy(tile(kSum) + 16 * m + n, &sum, sizeof sum);
        }
  }

 private:
  static constexpr int kBytes = 16 * 64;

  static uint32_t* tile(int i) {
    static thread_local uint32_t tiles[8][16 * 16];
    return tiles[i];
  }
  static float number(uint32_t bits) {
    float v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
  }
  // The instruction takes subnormals for 0.
  static float half(uint32_t bits) {
    const float v = number(bits);
    return std::fpclassify(v) == FP_SUBNORMAL ? 0.0f : v;
  }
};

}  // namespace
