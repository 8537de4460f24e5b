// Four floats in the compiler's own vectors: runs on any processor and is the fallback of last resort.
#pragma once

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
  static float sum(Vec v) { return (v[0] + v[1]) + (v[2] + v[3]); }
  static void prefetch(const void* p) { __builtin_prefetch(p); }
  static void prefetch_to_write(void* p) { __builtin_prefetch(p, 1); }

  // to[j * to_stride + i] = from[i * from_stride + j] for i, j < kWidth.
  static void transpose(const float* from, std::ptrdiff_t from_stride, float* to, std::ptrdiff_t to_stride) {
    for (int i = 0; i < kWidth; ++i)
      for (int j = 0; j < kWidth; ++j) to[j * to_stride + i] = from[i * from_stride + j];
  }
};

}  // namespace
