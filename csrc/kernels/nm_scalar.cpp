#include "kernels/nm.h"
#include "simd/unroll.h"

namespace {

template <bool kShort, int kReach>
struct Pieces {
  static constexpr int kIndexBytes = kShort ? 4 : 16;
  using Sum = float;
  using Window = const float*;
  struct Lanes {
    uint8_t at[sparsekit::kNmLanes];
  };

  explicit Pieces(const sparsekit::NmView& w) : bases(w.bases) {}

  static Sum zero() { return 0.0f; }
  static float total(Sum sum) { return sum; }
  static Window load(const float* x) { return x; }

  Lanes lanes(const uint8_t* indices) const {
    Lanes lanes;
    for (int i = 0; i < sparsekit::kNmLanes; ++i)
      lanes.at[i] = static_cast<uint8_t>(kShort ? (indices[i / 4] >> (i % 4 * 2) & 3) + bases[i] : indices[i]);
    return lanes;
  }

  static Sum dot(const float* values, const Lanes& lanes, Window x, Sum sum) {
    float part[4] = {0, 0, 0, 0};
    for (int i = 0; i < sparsekit::kNmLanes; ++i) part[i % 4] += values[i] * x[lanes.at[i]];
    return sum + ((part[0] + part[1]) + (part[2] + part[3]));
  }

  const uint8_t* bases;
};

}  // namespace

#include "kernels/nm_body.h"

namespace sparsekit {
extern const NmKernels nm_scalar;
const NmKernels nm_scalar = kNmKernels;
}  // namespace sparsekit
