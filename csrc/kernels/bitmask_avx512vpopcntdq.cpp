#include "simd/avx512.h"
// The instruction set first.
namespace {

// Each lane counts the bits below its own and picks that value: on Zen 4 this takes 1.0 ns for 16 columns where the
// expand instruction takes 1.7.
struct Expand {
  static constexpr int kRows = 8;

  static Simd::Vec next(const uint16_t* word, int, const float*& values) {
    const __m512i below = _mm512_setr_epi32(0x0, 0x1, 0x3, 0x7, 0xf, 0x1f, 0x3f, 0x7f, 0xff, 0x1ff, 0x3ff, 0x7ff, 0xfff,
                                            0x1fff, 0x3fff, 0x7fff);
    const __m512i rank = _mm512_popcnt_epi32(_mm512_and_si512(_mm512_set1_epi32(*word), below));
    const __m512 weights = _mm512_maskz_permutexvar_ps(*word, rank, _mm512_loadu_ps(values));
    values += __builtin_popcount(*word);
    return weights;
  }
};

}  // namespace

#include "kernels/bitmask_body.h"

namespace sparsekit {
extern const BitmaskKernels bitmask_avx512vpopcntdq;
const BitmaskKernels bitmask_avx512vpopcntdq = kBitmaskKernels;
}  // namespace sparsekit
