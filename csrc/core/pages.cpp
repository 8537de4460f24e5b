#include "core/pages.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace sparsekit {

namespace {

constexpr std::size_t kLine = 64;
constexpr std::size_t kHuge = std::size_t{2} << 20;

std::size_t round_up(std::size_t bytes, std::size_t step) { return (bytes + step - 1) / step * step; }

}  // namespace

#if defined(__linux__) && defined(MADV_HUGEPAGE)

void prefer_huge_pages(const void* data, std::size_t bytes) {
  constexpr int kCollapse = 25;  // MADV_COLLAPSE, from Linux 6.1 on; older headers lack the name
  const std::uintptr_t from = round_up(reinterpret_cast<std::uintptr_t>(data), kHuge);
  const std::uintptr_t to = (reinterpret_cast<std::uintptr_t>(data) + bytes) / kHuge * kHuge;
  if (from >= to) return;
  void* first = reinterpret_cast<void*>(from);
  if (madvise(first, to - from, MADV_HUGEPAGE) == 0) madvise(first, to - from, kCollapse);
}

#else

void prefer_huge_pages(const void*, std::size_t) {}

#endif

// AddressSanitizer sees reads beyond an array only where each has memory of its own.
#if defined(__linux__) && defined(MADV_HUGEPAGE) && !defined(__SANITIZE_ADDRESS__)

namespace {

// Addresses, in bytes, that are asked for at a time: they become memory page by page, as arrays are put there.
constexpr std::size_t kArea = std::size_t{32} << 20;

std::mutex& areas_lock() {
  static auto& lock = *new std::mutex;  // never destroyed: weights may outlive it
  return lock;
}

// Addresses that are dealt out from the first to the last. Held under the lock.
class Area {
 public:
  explicit Area(std::size_t bytes) : bytes_(round_up(bytes, kHuge)), arrays_(bytes_ / kHuge) {
    mapped_ = mmap(nullptr, bytes_ + kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped_ == MAP_FAILED) throw std::bad_alloc();
    const std::uintptr_t at = reinterpret_cast<std::uintptr_t>(mapped_);
    data_ = static_cast<char*>(mapped_) + (round_up(at, kHuge) - at);
    madvise(data_, bytes_, MADV_HUGEPAGE);
  }
  Area(const Area&) = delete;
  Area& operator=(const Area&) = delete;
  ~Area() { munmap(mapped_, bytes_ + kHuge); }

  bool has(std::size_t bytes) const { return bytes <= bytes_ - used_; }

  char* take(std::size_t bytes) {
    char* data = data_ + used_;
    used_ += bytes;
    for (std::size_t page = page_of(data); page <= page_of(data + bytes - 1); ++page) ++arrays_[page];
    return data;
  }

  void give_back(char* data, std::size_t bytes) {
    for (std::size_t page = page_of(data); page <= page_of(data + bytes - 1); ++page)
      if (--arrays_[page] == 0) madvise(data_ + page * kHuge, kHuge, MADV_DONTNEED);
  }

 private:
  std::size_t page_of(const char* data) const { return static_cast<std::size_t>(data - data_) / kHuge; }

  std::size_t bytes_, used_ = 0;
  std::vector<int> arrays_;  // on each page
  void* mapped_;
  char* data_;
};

}  // namespace

std::shared_ptr<void> on_huge_pages(std::size_t bytes) {
  static auto& current = *new std::weak_ptr<Area>;
  bytes = round_up(bytes, kLine);
  std::shared_ptr<Area> area;
  char* data = nullptr;
  {
    const std::lock_guard<std::mutex> hold(areas_lock());
    area = current.lock();
    if (area == nullptr || !area->has(bytes)) current = area = std::make_shared<Area>(std::max(bytes, kArea));
    data = area->take(bytes);
  }
  return {data, [area, bytes](void* p) {
            const std::lock_guard<std::mutex> hold(areas_lock());
            area->give_back(static_cast<char*>(p), bytes);
          }};
}

#else

std::shared_ptr<void> on_huge_pages(std::size_t bytes) {
  bytes = round_up(bytes, kLine);
  std::shared_ptr<void> data(std::aligned_alloc(kLine, bytes), std::free);
  if (data == nullptr) throw std::bad_alloc();
  std::memset(data.get(), 0, bytes);
  return data;
}

#endif

}  // namespace sparsekit
