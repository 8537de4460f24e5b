#include "kernels/probe.h"

#include <chrono>
#include <cstdint>
#include <vector>

#include "core/threads.h"
#include "kernels/dispatch.h"

namespace sparsekit {

namespace {

constexpr int kRepeats = 7;

// The shortest of several runs, in seconds; other load only ever lengthens them.
template <class Body>
double shortest(Body body) {
  double best = 1e30;
  for (int i = 0; i < kRepeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    body();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    best = taken.count() < best ? taken.count() : best;
  }
  return best;
}

}  // namespace

double peak_flops(int threads) {
  constexpr long kRounds = 200000;
  const ProbeKernels& kernels = best_probe();
  std::vector<float> sums(static_cast<std::size_t>(threads) * 16);
  const double seconds = shortest([&] {
    parallel(kSerialWork, threads, [&](int part, int) { sums[part * 16] = kernels.multiply_adds(kRounds, 0.5f); });
  });
  return static_cast<double>(kernels.flops_per_round) * kRounds * threads / seconds;
}

double read_bandwidth(int threads, int megabytes) {
  const int64_t words = (static_cast<int64_t>(megabytes) << 20) / 8;
  std::vector<uint64_t> buffer(static_cast<std::size_t>(words), 1);
  std::vector<uint64_t> sums(static_cast<std::size_t>(threads) * 8);
  const double seconds = shortest([&] {
    parallel(kSerialWork, threads, [&](int part, int parts) {
      uint64_t sum[8] = {};
      for (int64_t i = words / 8 * part / parts; i < words / 8 * (part + 1) / parts; ++i)
        for (int j = 0; j < 8; ++j) sum[j] += buffer[i * 8 + j];
      for (int j = 0; j < 8; ++j) sums[part * 8] += sum[j];
    });
  });
  return static_cast<double>(words) * 8 / seconds;
}

}  // namespace sparsekit
