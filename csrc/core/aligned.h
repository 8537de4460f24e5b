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
  // On a multiple of `line` bytes, of which it fills whole ones.
  explicit Aligned(std::size_t count = 0, std::size_t line = 64) : bytes_((count * sizeof(T) + line) / line * line) {
    data_.reset(static_cast<T*>(std::aligned_alloc(line, bytes_)));
    if (data_ == nullptr) throw std::bad_alloc();
    std::memset(data_.get(), 0, bytes_);
  }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  std::size_t bytes() const { return bytes_; }

 private:
  std::size_t bytes_;
  std::unique_ptr<T, Free> data_;
};

}  // namespace sparsekit
