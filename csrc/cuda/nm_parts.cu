// Adds what blocks summed over different parts of the columns, in the order of the parts.
#include "elements.cuh"
#include "launch.cuh"
#include "nm.h"
#include "nm_places.h"

namespace sparsekit::cuda {
namespace {

constexpr int kThreads = 256;

// Cost: 4 bytes read per part and output, 2 written.
template <class T>
__global__ void __launch_bounds__(kThreads)
    sum_parts(const float* partial, const T* bias, T* y, int64_t rows, int64_t outputs, int splits) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; at < outputs; at += step) {
    float sum = bias == nullptr ? 0.0f : widened(bias[at % rows]);
    for (int split = 0; split < splits; ++split) sum += partial[split * outputs + at];
    y[at] = narrowed<T>(sum);
  }
}

template <class T>
void launch_sum(const NmWeight& weight, const NmProduct& product, const NmLaunch& cut) {
  const int64_t outputs = product.batch * weight.rows, blocks = (outputs + kThreads - 1) / kThreads;
  const int64_t most = static_cast<int64_t>(cut.multiprocessors) * 16;
  launch("launching the sum of the parts of a 2:4 product", sum_parts<T>,
         {static_cast<uint32_t>(blocks < most ? blocks : most), kThreads, 0, cut.stream}, cut.partial,
         static_cast<const T*>(product.bias), static_cast<T*>(product.y), weight.rows, outputs, cut.splits);
}

}  // namespace

NmCounts nm_counts(const NmWeight& weight, const NmProduct& product, const NmLaunch& cut, int block_columns) {
  if (cut.tokens < 1) throw std::runtime_error("expected tiles of some tokens, got " + std::to_string(cut.tokens));
  const auto over = [](int64_t value, int64_t by) { return (value + by - 1) / by; };
  const int64_t row_tiles = over(weight.rows, kTileRows), token_tiles = over(product.batch, cut.tokens);
  const int64_t blocks = over(weight.columns, block_columns), items = row_tiles * token_tiles * cut.splits;
  if (cut.splits < 1 || cut.splits > blocks) {
    throw std::runtime_error("expected 1 to " + std::to_string(blocks) + " parts of the columns, got " +
                             std::to_string(cut.splits));
  }
  if (items < 1 || items > INT32_MAX) {
    throw std::runtime_error("expected 1 to 2^31 - 1 tiles and parts, got " + std::to_string(items));
  }
  const auto counted = [](int64_t value) { return static_cast<uint32_t>(value); };
  return {counted(row_tiles), counted(token_tiles), counted(blocks), counted(items)};
}

void nm_sum_parts(const NmWeight& weight, const NmProduct& product, const NmLaunch& cut) {
  weight.bf16 ? launch_sum<__nv_bfloat16>(weight, product, cut) : launch_sum<__half>(weight, product, cut);
}

}  // namespace sparsekit::cuda
