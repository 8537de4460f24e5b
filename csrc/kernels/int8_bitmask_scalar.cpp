#include "simd/bytes_scalar.h"
// The instruction set first.
#include "simd/unroll.h"

namespace {

struct Expand {
  using Sum = int32_t;
  struct Weights {
    int8_t w[64];
  };
  static Sum zero() { return 0; }
  static Weights next(uint64_t bits, const int8_t*& values) {
    Weights weights = {};
    for (; bits != 0; bits &= bits - 1) weights.w[__builtin_ctzll(bits)] = *values++;
    return weights;
  }
  static Sum dot(Sum sum, const Weights& weights, const uint8_t* x) {
    for (int i = 0; i < 64; ++i) sum += weights.w[i] * static_cast<int8_t>(x[i]);
    return sum;
  }
  static void totals(const Sum* sums, int32_t* to) { std::memcpy(to, sums, 4 * sizeof *sums); }
};

}  // namespace

#include "kernels/int8_bitmask_body.h"

namespace sparsekit {
extern const Int8BitmaskKernels int8_bitmask_scalar;
const Int8BitmaskKernels int8_bitmask_scalar = kInt8BitmaskKernels;
}  // namespace sparsekit
