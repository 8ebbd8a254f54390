#include "starve.h"

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace {

std::atomic<bool> starving{false};
std::atomic<int64_t> left{0};

// Of exactly this size, so that AddressSanitizer sees what lies behind it; or NULL.
void *found(std::size_t bytes, std::size_t alignment) {
  if (starving.load(std::memory_order_relaxed) && left.fetch_sub(1) <= 0) return nullptr;
  void *memory = nullptr;
  return posix_memalign(&memory, alignment, bytes) ? nullptr : memory;
}

void *found_or_thrown(std::size_t bytes, std::size_t alignment) {
  if (void *memory = found(bytes, alignment)) return memory;
  throw std::bad_alloc();
}

}  // namespace

Starve::Starve(int64_t allocations) {
  left = allocations;
  starving = true;
}
Starve::~Starve() { starving = false; }

void *operator new(std::size_t bytes) { return found_or_thrown(bytes, alignof(std::max_align_t)); }
void *operator new(std::size_t bytes, std::align_val_t alignment) {
  return found_or_thrown(bytes, static_cast<std::size_t>(alignment));
}
void *operator new(std::size_t bytes, const std::nothrow_t &) noexcept {
  return found(bytes, alignof(std::max_align_t));
}
void operator delete(void *memory) noexcept { std::free(memory); }
void operator delete(void *memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void *memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void *memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
