// The probe, written once over `Simd`; included after one instruction set.
#pragma once

#include "kernels/probe.h"
#include "simd/unroll.h"

namespace {

constexpr int kChains = 12;  // independent multiply-adds, enough to hide their latency

// Runs `rounds` * kChains vector multiply-adds; returns their sum so that they cannot be dropped.
float multiply_adds(long rounds, float factor) {
  Simd::Vec sum[kChains];
  SPARSEKIT_UNROLL
  for (int c = 0; c < kChains; ++c) sum[c] = Simd::set1(static_cast<float>(c));
  const Simd::Vec scale = Simd::set1(factor);
  for (long i = 0; i < rounds; ++i) {
    SPARSEKIT_UNROLL
    for (int c = 0; c < kChains; ++c) sum[c] = Simd::fma(sum[c], scale, scale);
  }
  Simd::Vec total = Simd::zero();
  SPARSEKIT_UNROLL
  for (int c = 0; c < kChains; ++c) total = Simd::add(total, sum[c]);
  return Simd::sum(total);
}

constexpr sparsekit::ProbeKernels kProbeKernels = {2 * kChains * Simd::kWidth, multiply_adds};

}  // namespace
