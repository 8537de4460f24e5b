// What this machine can do at most, measured: the yardstick beside every kernel's figures.
#pragma once

namespace sparsekit {

struct ProbeKernels {
  int flops_per_round;
  // Runs `rounds` rounds of independent multiply-adds; returns their sum so that they cannot be dropped.
  float (*multiply_adds)(long rounds, float factor);
};

// Floating-point operations a second of fp32 multiply-adds from registers, on `threads` threads.
double peak_flops(int threads);

// Bytes a second that `threads` threads read from a buffer of `megabytes`.
double read_bandwidth(int threads, int megabytes);

}  // namespace sparsekit
