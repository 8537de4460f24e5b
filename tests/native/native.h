// Tests of the kernels without Python, for the sanitizers: `make check-native` compiles csrc and this folder with
// AddressSanitizer and UndefinedBehaviorSanitizer and runs every family on every instruction set that the processor
// has, with one to four threads, over random shapes and masks.
//
// One more family is one more file here, which nothing has to name. It includes this one and says
//
//   FAMILY(name) {                    // called again and again, each time with another Random called `random`
//     const Problem problem(random);  // x, dense weight with zeros, bias, residual, activation
//     ...                             // packs problem.weight into Buffers
//     problem.check(Packed(parts));   // multiplies, and judges each output beside a sum in double precision
//     ...                             // damages the packed data
//     refuse_or_run([&] { problem.check(Packed(parts)); });
//   }
//
// `build/.../check_native/check 500 name` runs one family for so many rounds; a failure names family, instruction set,
// round, threads, shape and output. Memory that a kernel sees comes from Buffer: it ends where it was promised to end,
// so that a read beyond is seen, and it is null where it is empty, as torch's is.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kernels/dispatch.h"

namespace native {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2654435769u + 88172645463325252u) {}

  int64_t below(int64_t limit) { return static_cast<int64_t>(next() % static_cast<uint64_t>(limit)); }
  bool chance(double likely) { return unit() < likely; }
  double unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  float number() { return static_cast<float>(4 * unit() - 2); }
  template <class T>
  T one_of(std::initializer_list<T> of) {
    return of.begin()[below(static_cast<int64_t>(of.size()))];
  }
  // Nothing, one, around the widths of vectors and panels, primes.
  int64_t size() { return one_of<int64_t>({0, 1, 2, 3, 5, 7, 8, 9, 13, 15, 16, 17, 31, 32, 33, 48, 61, 64, 97, 131}); }

 private:
  uint64_t next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    return state_ ^= state_ << 17;
  }
  uint64_t state_;
};

// Whether buffers end before a page that nobody may touch, instead of where AddressSanitizer watches: it does not see
// gathers and loads with masks. Turned on and off between rounds.
inline bool guarded = false;

// So many elements and not one more. From the heap at an address that is a multiple of `align` and of no higher power
// of two; where guarded up to the end of a page, less what `align` leaves.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t count, std::size_t align = sizeof(T)) : count_(count) {
    if (count == 0) return;
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
    data_ = reinterpret_cast<T*>(guarded ? from_pages(bytes, align) : from_heap(bytes, align));
  }
  explicit Buffer(const std::vector<T>& from, std::size_t align = sizeof(T))
      : Buffer(static_cast<int64_t>(from.size()), align) {
    for (int64_t i = 0; i < count_; ++i) data_[i] = from[i];
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
    if (mapped_ == 0)
      std::free(room_);
    else
      munmap(room_, mapped_);
  }

  T* data() const { return data_; }
  int64_t size() const { return count_; }
  T& operator[](int64_t i) const { return data_[i]; }
  void fill(T value) const {
    for (int64_t i = 0; i < count_; ++i) data_[i] = value;
  }

 private:
  char* from_heap(std::size_t bytes, std::size_t align) {
    const std::size_t skip = align < 64 ? align : 0;
    if (posix_memalign(&room_, 64, bytes + skip) != 0) throw std::bad_alloc();
    return static_cast<char*>(room_) + skip;
  }

  char* from_pages(std::size_t bytes, std::size_t align) {
    constexpr std::size_t kPage = 4096;
    const std::size_t before = (bytes + align + kPage - 1) / kPage * kPage;
    mapped_ = before + kPage;
    room_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room_ == MAP_FAILED) throw std::bad_alloc();
    char* end = static_cast<char*>(room_) + before;
    if (mprotect(end, kPage, PROT_NONE) != 0) throw std::bad_alloc();
    return end - (bytes + align - 1) / align * align;
  }

  int64_t count_;
  void* room_ = nullptr;
  std::size_t mapped_ = 0;
  T* data_ = nullptr;
};

inline void expect(bool holds, const std::string& message) {
  if (!holds) throw std::logic_error(message);
}

inline float widened(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

// The bits of a number that bfloat16 holds exactly: eight of its digits are kept.
inline uint16_t halved(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return static_cast<uint16_t>(bits >> 16);
}

// A weight as it is stored; uint16_t is bfloat16.
template <class Number>
Number stored(float value) {
  if constexpr (sizeof(Number) == sizeof(uint16_t))
    return halved(value);
  else
    return static_cast<Number>(value);
}

inline void expect_near(double got, double exact, double bound, const std::string& where) {
  expect(std::abs(got - exact) <= bound, where + ": expected " + std::to_string(exact) + " to within " +
                                             std::to_string(bound) + ", got " + std::to_string(got));
}

// The rule of tests/numerics.py: a sum of `terms` products whose absolute values sum up to `scale`. A `curved`
// activation passes on at most 1.2 of the error and adds roundings of its own.
inline void judge(double got, double exact, double scale, int64_t terms, double eps, const std::string& where,
                  bool curved = false) {
  double bound = (2 + std::sqrt(static_cast<double>(terms))) * eps * scale + 1e-40;
  if (curved) bound = 1.2 * bound + 3e-6 * (1 + scale);
  expect_near(got, exact, bound, where);
}

// A dense weight, row by row, of which a random part is 0.
struct Weight {
  int64_t rows, columns;
  std::vector<float> cells;
  float at(int64_t row, int64_t column) const { return cells[static_cast<std::size_t>(row * columns + column)]; }

  Weight(Random& random, int64_t high, int64_t wide) : rows(high), columns(wide) {
    const double kept = random.one_of({0.0, 0.03, 0.2, 0.7, 1.0});
    for (int64_t i = 0; i < rows * columns; ++i)
      cells.push_back(random.chance(kept) ? widened(halved(random.number())) : 0.0f);
  }
};

inline double activated(double v, sparsekit::Activation activation) {
  using sparsekit::Activation;
  switch (activation) {
    case Activation::none: return v;
    case Activation::relu: return std::max(v, 0.0);
    case Activation::silu: return v / (1 + std::exp(-v));
    case Activation::gelu: return 0.5 * v * std::erfc(-v / std::sqrt(2.0));
    default: return 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
  }
}

inline sparsekit::Activation some_activation(Random& random) {
  using sparsekit::Activation;
  return random.one_of({Activation::none, Activation::relu, Activation::silu, Activation::gelu, Activation::gelu_tanh});
}

// One product in fp32: operands with rows of x that may lie apart, bias and residual that may be missing.
struct Problem {
  int64_t batch;
  Weight weight;
  int64_t x_stride;
  Buffer<float> x, bias, residual;
  sparsekit::Activation activation;

  explicit Problem(Random& random, int64_t most_batch = 140)
      : batch(std::min(random.size(), most_batch)),
        weight(random, random.chance(0.2) ? random.one_of<int64_t>({200, 331}) : random.size(), random.size()),
        x_stride(weight.columns + random.one_of({0, 0, 3})),
        x(batch == 0 || weight.columns == 0 ? 0 : (batch - 1) * x_stride + weight.columns),
        bias(random.chance(0.5) ? weight.rows : 0),
        residual(random.chance(0.3) ? batch * weight.rows : 0),
        activation(random.chance(0.5) ? sparsekit::Activation::none : some_activation(random)) {
    for (const auto* buffer : {&x, &bias, &residual})
      for (int64_t i = 0; i < buffer->size(); ++i) (*buffer)[i] = random.number();
  }

  // Multiplies by `weight` and judges every output; outputs begin as NaN.
  template <class Packed>
  void check(const Packed& packed) const {
    const Buffer<float> y(batch * weight.rows);
    y.fill(std::numeric_limits<float>::quiet_NaN());
    sparsekit::Product product;
    product.x = x.data();
    product.batch = batch;
    product.x_stride = x_stride;
    product.bias = bias.data();
    product.y = y.data();
    product.activation = activation;
    product.residual = residual.data();
    packed.multiply(product);
    judge_all([&](int64_t i) { return y[i]; }, 0x1p-23);
  }

  // Judges every output(i), (batch, rows), of a dtype whose roundings are `eps`.
  template <class Output>
  void judge_all(Output output, double eps) const {
    for (int64_t m = 0; m < batch; ++m)
      for (int64_t n = 0; n < weight.rows; ++n) judge_one(m, n, output(m * weight.rows + n), eps);
  }

 private:
  void judge_one(int64_t m, int64_t n, double got, double eps) const {
    double exact = bias.size() ? bias[n] : 0.0, scale = std::abs(exact);
    for (int64_t k = 0; k < weight.columns; ++k) {
      const double term = static_cast<double>(weight.at(n, k)) * x[m * x_stride + k];
      exact += term;
      scale += std::abs(term);
    }
    const double added = residual.size() ? residual[m * weight.rows + n] : 0.0;
    judge(got, activated(exact, activation) + added, scale + std::abs(added), weight.columns, eps,
          std::to_string(batch) + " x " + std::to_string(weight.rows) + " x " + std::to_string(weight.columns) +
              ", activation " + std::to_string(static_cast<int>(activation)) + ", token " + std::to_string(m) +
              ", output " + std::to_string(n),
          activation > sparsekit::Activation::relu);
  }
};

// The offsets of rows, in 32 or 64 bits.
struct Offsets {
  bool wide;
  Buffer<int32_t> narrow_ones;
  Buffer<int64_t> wide_ones;

  Offsets(Random& random, const std::vector<int64_t>& from)
      : wide(random.chance(0.5)),
        narrow_ones(wide ? 0 : static_cast<int64_t>(from.size())),
        wide_ones(wide ? static_cast<int64_t>(from.size()) : 0) {
    for (std::size_t i = 0; i < from.size(); ++i) set(static_cast<int64_t>(i), from[i]);
  }
  const void* data() const {
    return wide ? static_cast<const void*>(wide_ones.data()) : static_cast<const void*>(narrow_ones.data());
  }
  void set(int64_t i, int64_t value) const {
    if (wide)
      wide_ones[i] = value;
    else
      narrow_ones[i] = static_cast<int32_t>(value);
  }
  // Writes nonsense to one of them.
  void damage(Random& random) const {
    const int64_t last = narrow_ones.size() + wide_ones.size() - 1;
    const int64_t end = wide ? wide_ones[last] : narrow_ones[last];
    set(random.below(last + 1), random.one_of<int64_t>({-1, 1, 5, end - 1, end, end + 1, -(1 << 30), (1 << 30)}));
  }
};

// Calls `build`, which is given damaged data and must refuse it or be right in taking it: what it takes is used.
inline void refuse_or_run(const std::function<void()>& build) {
  try {
    build();
  } catch (const std::invalid_argument&) {
  } catch (const std::logic_error&) {  // values that were read from elsewhere in the weight are not those expected
  }
}

// Calls `build`, which is given data that no weight has.
inline void refuse(const std::function<void()>& build) {
  try {
    build();
  } catch (const std::invalid_argument&) {
    return;
  }
  throw std::logic_error("expected a refusal of data that no weight has");
}

using Run = void (*)(Random&);

// Puts a family on the list that main goes through.
struct Family {
  Family(const char* name, Run run);
};

}  // namespace native

#define FAMILY(name)                                      \
  static void name(native::Random& random);               \
  static const native::Family name##_listed(#name, name); \
  static void name([[maybe_unused]] native::Random& random)
