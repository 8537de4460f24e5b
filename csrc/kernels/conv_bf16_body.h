// Convolution in bfloat16 by blocks of several rows, with fp32 sums: each lane of a line holds two input channels.
#pragma once

#include "kernels/conv_vectors.h"

namespace {

constexpr sparsekit::ConvKernels kConvKernels = {kWidth,     kMostVectorRows, kMostVectorRows, Bf16::kChannels,
                                                 pack<Bf16>, nullptr,         nullptr,         multiply_vectors<Bf16>};

}  // namespace
