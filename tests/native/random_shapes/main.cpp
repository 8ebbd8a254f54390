// Random layers through the C interface of the CPU kernel; see the usage text below. Exit status 0: everything held.
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "arrays.h"
#include "shape.h"

namespace {

constexpr const char *kUsage =
    "random_shapes LIBRARY shapes COUNT SEED [FIRST]  COUNT random layers, from number FIRST on\n"
    "random_shapes LIBRARY threads COUNT SEED         the same in four threads at once\n"
    "random_shapes LIBRARY leak CALLS                 memory before and after so many calls\n"
    "random_shapes LIBRARY leak-weights CALLS         the same without freeing packed weights: must fail\n";
constexpr int kSkipped = 77;
constexpr uint64_t kMostIdle = uint64_t{256} << 20;

int shapes(const Library &library, uint64_t count, uint64_t seed, uint64_t first) {
  Counts counts;
  for (uint64_t index = first; index < first + count; ++index) check_shape(library, seed, index, {}, counts);
  std::printf("%s; idle %llu bytes\n", counts.summary().c_str(), static_cast<unsigned long long>(library.idle_bytes()));
  if (library.idle_bytes() > kMostIdle) throw std::runtime_error("more idle memory than 256 MiB");
  if (library.peak_flops(1e-3) <= 0) throw std::runtime_error("no peak");
  library.release_idle();
  if (library.idle_bytes() != 0) throw std::runtime_error("idle memory after it was released");
  return 0;
}

int threads(const Library &library, uint64_t count, uint64_t seed) {
  constexpr int kCallers = 4;
  std::vector<Counts> counts(kCallers);
  std::vector<std::string> errors(kCallers);
  std::vector<std::thread> callers;
  library.choose("", nullptr, 0);
  for (int i = 0; i < kCallers; ++i)
    callers.emplace_back([&, i] {
      try {
        for (uint64_t index = i; index < count; index += kCallers)
          check_shape(library, seed, index, {/*alone=*/false, {/*least=*/0, /*large_share=*/0.1}}, counts[i]);
      } catch (const std::exception &error) {
        errors[i] = error.what();
      }
    });
  for (std::thread &caller : callers) caller.join();
  for (const std::string &error : errors)
    if (!error.empty()) throw std::runtime_error(error);
  for (int i = 1; i < kCallers; ++i) counts[0].add(counts[i]);
  std::printf("%s\n", counts[0].summary().c_str());
  return 0;
}

// Resident memory, or -1 where the system does not say.
int64_t resident_bytes() {
  int64_t size = 0, resident = -1;
  std::ifstream("/proc/self/statm") >> size >> resident;
  return resident < 0 ? -1 : resident * sysconf(_SC_PAGESIZE);
}

// A forward and a backward call, packed weights, and a call that is refused.
struct Calls {
  gapcell_layer layer;
  Batch batch;

  Calls(const Library &library, Random &random) : layer(trained(random)), batch(layer, random) {
    uint64_t bytes = 0;
    library.stored_bytes(&layer, batch.arguments().update, &bytes, nullptr, 0);
    batch.make_stored(bytes);
  }
  static gapcell_layer trained(Random &random) {
    gapcell_layer layer = draw_layer(random, {/*least=*/1});
    layer.store = GAPCELL_STORE_FP32;
    return layer;
  }
  void run(const Library &library, bool free_weights) const {
    const gapcell_arguments arguments = batch.arguments();
    gapcell_weights *weights = nullptr;
    gapcell_layer wrong = layer;
    ++wrong.filters;
    if (library.forward(&layer, &arguments, nullptr, 0) || library.backward(&layer, &arguments, nullptr, 0) ||
        library.weights_create(&layer, &arguments, &weights, nullptr, 0) ||
        !library.forward(&wrong, &arguments, nullptr, 0))
      throw std::runtime_error("a call did not answer as it should: " + described(layer));
    if (free_weights) library.weights_free(weights);
  }
};

int leak(const Library &library, uint64_t calls, bool free_weights) {
  constexpr int64_t kMostGrowth = 2 << 20;
  if (resident_bytes() < 0) {
    std::puts("skipped: this system has no /proc/self/statm");
    return kSkipped;
  }
  Random random(3, 0);
  std::vector<Calls> drawn;
  for (int i = 0; i < 40; ++i) drawn.emplace_back(library, random);
  for (const Calls &warm_up : drawn)
    for (int i = 0; i < 25; ++i) warm_up.run(library, true);
  const int64_t before = resident_bytes();
  for (uint64_t done = 0; done < calls; done += 4) drawn[done / 4 % drawn.size()].run(library, free_weights);
  const int64_t growth = resident_bytes() - before;
  std::printf("%llu calls: resident memory %lld KiB before, %+lld KiB after, idle %llu KiB\n",
              static_cast<unsigned long long>(calls), static_cast<long long>(before >> 10),
              static_cast<long long>(growth >> 10), static_cast<unsigned long long>(library.idle_bytes() >> 10));
  if (growth > kMostGrowth) throw std::runtime_error("resident memory grows with the calls");
  return 0;
}

int run(const std::vector<std::string> &words) {
  if (words.size() < 3 || words[2].find_first_not_of("0123456789") != std::string::npos)
    throw std::invalid_argument(kUsage);
  const Library library(words[0].c_str());
  const std::string &mode = words[1];
  const auto number = [&](size_t i) { return words.size() > i ? std::stoull(words[i]) : 0; };
  if (mode == "shapes") return shapes(library, number(2), number(3), number(4));
  if (mode == "threads") return threads(library, number(2), number(3));
  if (mode == "leak" || mode == "leak-weights") return leak(library, number(2), mode == "leak");
  throw std::invalid_argument(kUsage);
}

}  // namespace

int main(int count, char **words) {
  try {
    return run({words + 1, words + count});
  } catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
