// Four floats in the compiler's own vectors: runs on any processor and is the fallback of last resort.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace {

struct Simd {
  static constexpr int kWidth = 4;
  typedef float Vec __attribute__((vector_size(16)));

  static Vec zero() { return Vec{0, 0, 0, 0}; }
  static Vec set1(float v) { return Vec{v, v, v, v}; }
  static Vec load(const float* p) { return loadu(p); }
  static Vec loadu(const float* p) {
    Vec v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static void store(float* p, Vec v) { storeu(p, v); }
  static void storeu(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }
  static Vec load_first(const float* p, int n) {
    Vec v = zero();
    std::memcpy(&v, p, sizeof(float) * static_cast<std::size_t>(n));
    return v;
  }
  static void store_first(float* p, Vec v, int n) { std::memcpy(p, &v, sizeof(float) * static_cast<std::size_t>(n)); }
  static Vec add(Vec a, Vec b) { return a + b; }
  static Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
  static Vec mul(Vec a, Vec b) { return a * b; }
  static Vec div(Vec a, Vec b) { return a / b; }
  // The second operand where either is not a number, as the x86 instruction has it.
  static Vec min(Vec a, Vec b) { return a < b ? a : b; }
  static Vec max(Vec a, Vec b) { return a > b ? a : b; }
  static Vec round(Vec v) {
    for (int i = 0; i < kWidth; ++i) v[i] = std::nearbyintf(v[i]);
    return v;
  }
  // v * 2^n for integers n in [-126, 127].
  static Vec scale(Vec v, Vec n) {
    for (int i = 0; i < kWidth; ++i) v[i] = std::ldexp(v[i], static_cast<int>(n[i]));
    return v;
  }
  static float sum(Vec v) { return (v[0] + v[1]) + (v[2] + v[3]); }
  static void hold(Vec&) {}
  static void prefetch(const void* p) { __builtin_prefetch(p); }
  static void prefetch_to_write(void* p) { __builtin_prefetch(p, 1); }

  // The lanes [begin, end) of a vector. What the other lanes of an address point at is never touched.
  struct Lanes {
    int begin, end;
  };
  static Lanes lanes(int begin, int end) { return {begin, end}; }
  static Vec load_lanes(const float* p, Lanes lanes) { return load_steps(p, 1, lanes); }
  static void store_lanes(float* p, Vec v, Lanes lanes) {
    for (int i = lanes.begin; i < lanes.end; ++i) p[i] = v[i];
  }
  // Lanes to be loaded from places that are a step apart.
  using Steps = Lanes;
  static Steps steps(Lanes lanes) { return lanes; }
  // Lane i is p[i * step].
  static Vec load_steps(const float* p, std::ptrdiff_t step, Steps lanes) {
    Vec v = zero();
    for (int i = lanes.begin; i < lanes.end; ++i) v[i] = p[i * step];
    return v;
  }
  // Lane i of out[k] is p[2 * i + k], for k < 3.
  static void load_second(const float* p, const Steps* chosen, Vec* out) {
    for (int k = 0; k < 3; ++k) out[k] = load_steps(p + k, 2, chosen[k]);
  }
  // Lane i is the pair of halves (p[i * step], q[i * step]); a null q is 0.
  static Vec load_pairs(const uint16_t* p, const uint16_t* q, std::ptrdiff_t step, Steps lanes) {
    alignas(32) uint32_t out[kWidth] = {};
    for (int i = 0; i < kWidth; ++i)
      if (holds(lanes, i)) out[i] = p[i * step] | (q == nullptr ? 0u : static_cast<uint32_t>(q[i * step]) << 16);
    return loadu(reinterpret_cast<const float*>(out));
  }
  // Lane i of out[k] is the pair of halves (p[2 * i + k], q[2 * i + k]), for k < 3; a null q is 0.
  static void load_second_pairs(const uint16_t* p, const uint16_t* q, const Steps* chosen, Vec* out) {
    for (int k = 0; k < 3; ++k) out[k] = load_pairs(p + k, q == nullptr ? q : q + k, 2, chosen[k]);
  }
  // sum + w0 * x0 + w1 * x1 for the pairs of bfloat16 in each lane.
  static Vec mac_pairs(Vec w, Vec x, Vec sum) { return fma(high(w), high(x), fma(low(w), low(x), sum)); }
  // The same with one pair for all lanes.
  static Vec mac_pair(Vec w, const float* x, Vec sum) { return mac_pairs(w, set1(*x), sum); }
  // bfloat16 to fp32.
  static Vec load_halves(const uint16_t* p, Lanes lanes) {
    alignas(32) uint32_t out[kWidth] = {};
    for (int i = 0; i < kWidth; ++i)
      if (holds(lanes, i)) out[i] = static_cast<uint32_t>(p[i]) << 16;
    return loadu(reinterpret_cast<const float*>(out));
  }
  // Rounds to bfloat16, ties to even.
  static void store_halves(uint16_t* p, Vec v, Lanes lanes) {
    alignas(32) uint32_t bits[kWidth];
    std::memcpy(bits, &v, sizeof bits);
    for (int i = 0; i < kWidth; ++i)
      if (holds(lanes, i))
        p[i] = static_cast<uint16_t>(
            (bits[i] & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : (bits[i] + 0x7fff + (bits[i] >> 16 & 1)) >> 16);
  }
  static Vec merge(Vec a, Vec b) { return of_bits(bits(a) | bits(b)); }

  // to[j * to_stride + i] = from[i * from_stride + j] for i, j < kWidth.
  static void transpose(const float* from, std::ptrdiff_t from_stride, float* to, std::ptrdiff_t to_stride) {
    for (int i = 0; i < kWidth; ++i)
      for (int j = 0; j < kWidth; ++j) to[j * to_stride + i] = from[i * from_stride + j];
  }

 private:
  typedef uint32_t Bits __attribute__((vector_size(16)));

  static bool holds(Lanes lanes, int i) { return i >= lanes.begin && i < lanes.end; }
  static Bits bits(Vec v) {
    Bits b;
    std::memcpy(&b, &v, sizeof b);
    return b;
  }
  static Vec of_bits(Bits b) {
    Vec v;
    std::memcpy(&v, &b, sizeof v);
    return v;
  }
  static Vec low(Vec v) { return of_bits(bits(v) << 16); }
  static Vec high(Vec v) { return of_bits(bits(v) & 0xffff0000u); }
};

}  // namespace
