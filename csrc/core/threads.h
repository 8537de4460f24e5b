// Work sharing on the OpenMP pool that the process already has (torch's); see setup.py for why nothing is linked.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>

#if defined(_OPENMP)
extern "C" int omp_get_max_threads();
extern "C" int omp_get_thread_num();
extern "C" int omp_get_num_threads();
#else  // one thread, where the compiler has no OpenMP
inline int omp_get_max_threads() { return 1; }
inline int omp_get_thread_num() { return 0; }
inline int omp_get_num_threads() { return 1; }
#endif

namespace sparsekit {

// Below this many multiply-adds, waking the pool costs more than it saves. Tests share out less.
#if defined(SPARSEKIT_SERIAL_WORK)
constexpr int64_t kSerialWork = SPARSEKIT_SERIAL_WORK;
#else
constexpr int64_t kSerialWork = 1 << 16;
#endif

// Calls body(part, parts) once for each of `parts` equal shares of `work` multiply-adds; at most `most` shares.
template <class Body>
void parallel(int64_t work, int64_t most, Body body) {
  const int parts =
      work < kSerialWork ? 1 : static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(omp_get_max_threads(), most)));
  if (parts == 1) {
    body(0, 1);
    return;
  }
  std::exception_ptr failure;
#pragma omp parallel num_threads(parts)
  {
    // The pool may grant fewer threads than asked for; the shares are dealt to those there are.
    const int granted = omp_get_num_threads();
    for (int part = omp_get_thread_num(); part < parts; part += granted) {
      try {
        body(part, parts);
      } catch (...) {
#pragma omp critical(sparsekit_failure)
        failure = std::current_exception();
      }
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace sparsekit
