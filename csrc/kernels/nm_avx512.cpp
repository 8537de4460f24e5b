#include "simd/avx512.h"
// The instruction set first.
#include <cstring>

#include "kernels/nm.h"

namespace {

// The activations of a piece lie in two or four registers, from which the indices pick.
template <bool kShort, int kReach>
struct Pieces {
  static constexpr int kIndexBytes = kShort ? 4 : 16;
  using Sum = __m512;
  using Lanes = __m512i;
  struct Window {
    __m512 part[kReach / 16];
  };

  explicit Pieces(const sparsekit::NmView& w) : bases(_mm512_setzero_si512()) {
    if (kShort) bases = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w.bases)));
  }

  static Sum zero() { return _mm512_setzero_ps(); }
  static float total(Sum sum) { return _mm512_reduce_add_ps(sum); }

  static SPARSEKIT_INLINE Window load(const float* x) {
    Window window;
    SPARSEKIT_UNROLL
    for (int i = 0; i < kReach / 16; ++i) window.part[i] = _mm512_loadu_ps(x + 16 * i);
    return window;
  }

  SPARSEKIT_INLINE Lanes lanes(const uint8_t* indices) const {
    if (!kShort) return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(indices)));
    const __m512i shifts = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    int32_t all;
    std::memcpy(&all, indices, sizeof all);
    const __m512i position = _mm512_and_si512(_mm512_srlv_epi32(_mm512_set1_epi32(all), shifts), _mm512_set1_epi32(3));
    return _mm512_add_epi32(position, bases);
  }

  static SPARSEKIT_INLINE Sum dot(const float* values, Lanes lanes, const Window& window, Sum sum) {
    __m512 x = _mm512_permutex2var_ps(window.part[0], lanes, window.part[1]);
    if (kReach == 64) {  // bit 5 says which half
      const __m512 far = _mm512_permutex2var_ps(window.part[kReach / 16 - 2], lanes, window.part[kReach / 16 - 1]);
      x = _mm512_mask_mov_ps(x, _mm512_movepi32_mask(_mm512_slli_epi32(lanes, 26)), far);
    }
    return _mm512_fmadd_ps(_mm512_load_ps(values), x, sum);
  }

  __m512i bases;
};

}  // namespace

#include "kernels/nm_body.h"

namespace sparsekit {
extern const NmKernels nm_avx512;
const NmKernels nm_avx512 = kNmKernels;
}  // namespace sparsekit
