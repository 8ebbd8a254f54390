#include "memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <new>
#include <utility>

namespace gapcell {
namespace {

constexpr uint64_t kAlignment = 64;
#if defined(GAPCELL_EXACT_MEMORY)
// To test with: every piece has its size to the byte and is used once, so that a sanitizer sees what lies beyond it,
// and is of NaN at first, so that a place that is read before it is written shows.
constexpr bool kExact = true;
constexpr uint64_t kIdleLimit = 0;
#else
constexpr bool kExact = false;
constexpr uint64_t kIdleLimit = uint64_t{256} << 20;
#endif

struct Piece {
  void *data;
  uint64_t bytes;
};

struct Pool {
  std::mutex lock;
  std::vector<Piece> idle;
  uint64_t bytes = 0;
  pid_t process = getpid();
};

std::atomic<Pool *> current{nullptr};

// A child of fork may have got the lock in its locked state, held by a thread that it does not have: it starts with a
// pool of its own. The old one is left alone, and so is its memory.
Pool &pool() {
  Pool *found = current.load(std::memory_order_acquire);
  while (!found || found->process != getpid()) {
    Pool *fresh = new Pool;
    if (current.compare_exchange_strong(found, fresh)) return *fresh;
    delete fresh;
  }
  return *found;
}

// Sizes are rounded up to few different ones, so that a batch of another size finds a piece that fits.
uint64_t rounded(uint64_t bytes) {
  if (kExact) return bytes;
  uint64_t unit = kAlignment;
  while (unit * 8 < bytes) unit *= 2;
  return (bytes + unit - 1) / unit * unit;
}

Piece borrow(uint64_t bytes) {
  {
    Pool &from = pool();
    std::lock_guard<std::mutex> hold(from.lock);
    auto fits = [bytes](const Piece &piece) { return piece.bytes >= bytes && piece.bytes <= 2 * bytes; };
    auto found = std::find_if(from.idle.begin(), from.idle.end(), fits);
    if (found != from.idle.end()) {
      Piece piece = *found;
      from.idle.erase(found);
      from.bytes -= piece.bytes;
      return piece;
    }
  }
  void *data = ::operator new(bytes, std::align_val_t{kAlignment});
  if (kExact) std::memset(data, 0xFF, bytes);
  return {data, bytes};
}

void free_piece(const Piece &piece) { ::operator delete(piece.data, std::align_val_t{kAlignment}); }

void give_back(Piece piece) {
  Pool &to = pool();
  std::lock_guard<std::mutex> hold(to.lock);
  try {
    to.idle.push_back(piece);
  } catch (const std::bad_alloc &) {  // this is how a call ends that found no memory: it must not end the process
    return free_piece(piece);
  }
  to.bytes += piece.bytes;
  while (to.bytes > kIdleLimit) {  // the oldest goes first: a change of shapes empties the pool of what no longer fits
    to.bytes -= to.idle.front().bytes;
    free_piece(to.idle.front());
    to.idle.erase(to.idle.begin());
  }
}

}  // namespace

Memory::Memory(uint64_t bytes) {
  if (bytes > SIZE_MAX / 4) throw std::bad_alloc();
  Piece piece = borrow(rounded(bytes ? bytes : 1));
  data_ = piece.data;
  bytes_ = piece.bytes;
}

Memory::~Memory() {
  if (data_) give_back({data_, bytes_});
}

Memory::Memory(Memory &&other) noexcept { *this = std::move(other); }

Memory &Memory::operator=(Memory &&other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

void *Scratch::take(uint64_t bytes) {
  constexpr uint64_t kLeast = uint64_t{128} << 10;
  if (kExact) return pieces_.emplace_back(bytes).data();
  bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (bytes > free_bytes_) {
    pieces_.emplace_back(std::max(bytes, kLeast));
    free_ = static_cast<char *>(pieces_.back().data());
    free_bytes_ = pieces_.back().bytes();
  }
  void *taken = free_;
  free_ += bytes;
  free_bytes_ -= bytes;
  return taken;
}

void *take_bytes(Scratch &scratch, uint64_t bytes) { return scratch.take(bytes); }

void prefer_large_pages(const gapcell_buffer &buffer) {
#if defined(MADV_HUGEPAGE)
  constexpr uint64_t kLarge = uint64_t{4} << 20, kPage = 4096;
  if (!buffer.data || buffer.bytes < kLarge) return;
  const auto start = (reinterpret_cast<uintptr_t>(buffer.data) + kPage - 1) / kPage * kPage;
  const auto end = (reinterpret_cast<uintptr_t>(buffer.data) + buffer.bytes) / kPage * kPage;
  madvise(reinterpret_cast<void *>(start), end - start, MADV_HUGEPAGE);
#else
  (void)buffer;
#endif
}

uint64_t idle_bytes() {
  Pool &from = pool();
  std::lock_guard<std::mutex> hold(from.lock);
  return from.bytes;
}

void release_idle() {
  Pool &from = pool();
  std::lock_guard<std::mutex> hold(from.lock);
  for (const Piece &piece : from.idle) free_piece(piece);
  std::vector<Piece>().swap(from.idle);
  from.bytes = 0;
}

}  // namespace gapcell
