// An array on a cache line that a packed weight owns.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

namespace sparsekit {

struct Free {
  void operator()(void* p) const { std::free(p); }
};

// Zeroed; of elements that need no construction.
template <class T>
class Aligned {
 public:
  explicit Aligned(std::size_t count = 0) {
    constexpr std::size_t kLine = 64;
    const std::size_t bytes = (count * sizeof(T) + kLine) / kLine * kLine;
    data_.reset(static_cast<T*>(std::aligned_alloc(kLine, bytes)));
    if (data_ == nullptr) throw std::bad_alloc();
    std::memset(data_.get(), 0, bytes);
  }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }

 private:
  std::unique_ptr<T, Free> data_;
};

}  // namespace sparsekit
