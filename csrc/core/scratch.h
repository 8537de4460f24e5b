// Memory that starts on a cache line: a vector that straddles two lines costs two loads.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

namespace sparsekit {

// Grows and never shrinks; contents are lost when it grows. Not copyable.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(data_); }

  float* floats(std::size_t count) {
    constexpr std::size_t kLine = 64;
    const std::size_t bytes = (count * sizeof(float) + kLine - 1) / kLine * kLine;
    if (bytes > bytes_) {
      std::free(data_);
      bytes_ = 0;
      data_ = static_cast<float*>(std::aligned_alloc(kLine, bytes));
      if (data_ == nullptr) throw std::bad_alloc();
      bytes_ = bytes;
    }
    return data_;
  }

 private:
  float* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace sparsekit
