// What Python calls: a product by one of the kernels, and what went wrong, or nothing.
#include <cstring>
#include <exception>

#include "nm.h"

extern "C" int run(const char* kernel, const void* panels, int64_t rows, int64_t columns, int bf16, const void* x,
                   int64_t batch, int64_t x_stride, const void* bias, void* y, int tokens, int splits, float* partial,
                   int multiprocessors, char* failure, int room) {
  using namespace sparsekit::cuda;
  try {
    const auto multiply = std::strcmp(kernel, "mma") == 0 ? nm_mma : nm_wgmma;
    multiply({panels, rows, columns, bf16 != 0}, {x, batch, x_stride, bias, y},
             {tokens, splits, partial, multiprocessors, nullptr});
    return 0;
  } catch (const std::exception& error) {
    std::strncpy(failure, error.what(), room - 1);
    return 1;
  }
}
