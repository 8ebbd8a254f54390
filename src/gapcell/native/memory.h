// Scratch memory, kept from call to call: fresh pages cost as much as the arithmetic that fills them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "call.h"

namespace gapcell {

// A 64-byte aligned piece of pooled memory, not initialised. Throws std::bad_alloc.
class Memory {
 public:
  Memory() = default;
  explicit Memory(uint64_t bytes);
  ~Memory();
  Memory(Memory &&other) noexcept;
  Memory &operator=(Memory &&other) noexcept;
  Memory(const Memory &) = delete;
  Memory &operator=(const Memory &) = delete;

  void *data() const { return data_; }
  uint64_t bytes() const { return bytes_; }

 private:
  void *data_ = nullptr;
  uint64_t bytes_ = 0;
};

// Many pieces for one thread of one call, cut from few large ones.
class Scratch {
 public:
  void *take(uint64_t bytes);

 private:
  std::vector<Memory> pieces_;
  char *free_ = nullptr;
  uint64_t free_bytes_ = 0;
};

// Asks the system for large pages where a large buffer is about to be filled: fresh memory is mapped page by page at the
// first touch, and 512 times fewer of these make a large training step on fresh memory a seventh faster. Only a hint.
void prefer_large_pages(const gapcell_buffer &buffer);

uint64_t idle_bytes();
void release_idle();

}  // namespace gapcell
