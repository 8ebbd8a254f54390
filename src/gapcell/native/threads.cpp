#include "threads.h"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>

namespace gapcell {
namespace {

constexpr int kMostThreads = 256;

// One call of run_parts. Workers and the caller draw the next part's number until none is left.
struct Job {
  Job(int parts, const std::function<void(int)> &work) : parts(parts), work(&work) {}

  void run() {
    for (int part = next.fetch_add(1); part < parts; part = next.fetch_add(1)) {
      std::exception_ptr thrown;
      try {
        (*work)(part);
      } catch (...) {
        thrown = std::current_exception();
      }
      std::lock_guard<std::mutex> hold(lock);
      if (thrown && !error) error = thrown;
      if (++done == parts) finished.notify_all();
    }
  }

  void wait() {
    std::unique_lock<std::mutex> hold(lock);
    finished.wait(hold, [this] { return done == parts; });
    if (error) std::rethrow_exception(error);
  }

  const int parts;
  const std::function<void(int)> *work;  // read only while a part is undone, that is while the caller waits
  std::atomic<int> next{0};
  std::mutex lock;
  std::condition_variable finished;
  int done = 0;
  std::exception_ptr error;
};

class Pool {
 public:
  // Calls up to `helpers` sleeping threads to the job; starts threads where there are too few.
  void share(const std::shared_ptr<Job> &job, int helpers) {
    std::lock_guard<std::mutex> hold(lock_);
    try {
      for (; threads_ < helpers && threads_ < kMostThreads; ++threads_) std::thread([this] { serve(); }).detach();
      for (int i = 0; i < helpers; ++i) waiting_.push_back(job);
    } catch (const std::exception &) {
      // The system gives no more threads or memory: those threads that there are, or the caller alone, do the work.
    }
    wake_.notify_all();
  }

  const pid_t process = getpid();

 private:
  void serve() {
    for (;;) {
      std::shared_ptr<Job> job;
      {
        std::unique_lock<std::mutex> hold(lock_);
        wake_.wait(hold, [this] { return !waiting_.empty(); });
        job = std::move(waiting_.front());
        waiting_.pop_front();
      }
      job->run();
    }
  }

  std::mutex lock_;
  std::condition_variable wake_;
  std::deque<std::shared_ptr<Job>> waiting_;
  int threads_ = 0;
};

std::atomic<Pool *> current{nullptr};

// A child of fork has none of its parent's threads, so it needs a pool of its own. Pools are never destroyed: their
// threads sleep until the process ends.
Pool &pool() {
  Pool *found = current.load(std::memory_order_acquire);
  while (!found || found->process != getpid()) {
    Pool *fresh = new Pool;
    if (current.compare_exchange_strong(found, fresh)) return *fresh;
    delete fresh;
  }
  return *found;
}

}  // namespace

void run_parts(int parts, gapcell_parallel lent, const std::function<void(int)> &work) {
  if (parts <= 1) {
    if (parts == 1) work(0);
    return;
  }
  if (lent) {
    Job job(parts, work);
    lent([](void *data) { static_cast<Job *>(data)->run(); }, &job, static_cast<unsigned>(parts), 0);
    return job.wait();
  }
  auto job = std::make_shared<Job>(parts, work);
  pool().share(job, parts - 1);
  job->run();
  job->wait();
}

int claim_slice(Team &team, int64_t phase) {
  int64_t slice = team.claimed_.load();
  while (slice < (phase + 1) * team.slices_)
    if (team.claimed_.compare_exchange_weak(slice, slice + 1)) return static_cast<int>(slice - phase * team.slices_);
  return -1;
}

void finish_slice(Team &team) { team.done_.fetch_add(1); }

void wait_for_slices(const Team &team, int64_t phase) {
  for (int tries = 0; team.done_.load() < (phase + 1) * team.slices_; ++tries) {
    // A slice takes microseconds; longer only if its thread has lost its core, and ours may be the one it needs.
    if (tries > 10000) std::this_thread::yield();
  }
}

}  // namespace gapcell
