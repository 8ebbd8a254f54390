#include "schedule.h"

#include <algorithm>
#include <numeric>

namespace gapcell {
namespace {

bool any_site(const Call &call, int64_t n, int64_t t) {
  if (call.layer.update_mask != GAPCELL_SITES) return call.updates(n, t, 0);
  const auto *u = static_cast<const uint8_t *>(call.data.update.data) + (n * call.T + t) * call.P;
  return std::any_of(u, u + call.P, [](uint8_t byte) { return byte != 0; });
}

// What a sample costs: its computed (step, site) pairs.
int64_t pairs(const Call &call, const Schedule &schedule, int64_t n) {
  const int64_t steps = schedule.first[n + 1] - schedule.first[n];
  if (call.layer.update_mask != GAPCELL_SITES) return steps * call.P;
  const auto *u = static_cast<const uint8_t *>(call.data.update.data) + n * call.T * call.P;
  return call.T * call.P - std::count(u, u + call.T * call.P, uint8_t{0});
}

#if defined(GAPCELL_SANITIZED)
constexpr double kEffort = 0.0;  // to test with: however little there is to do, all threads take part
#else
constexpr double kEffort = 1.0;
#endif

double products(const Call &call, int64_t pairs) {
  const int64_t read = call.taps * call.C + call.recurrent_taps * call.F;
  return static_cast<double>(pairs) * 4.0 * static_cast<double>(call.F) * static_cast<double>(read);
}

// Waking a thread takes some ten microseconds, one that is lent and still spins one or two; for less work than that it
// is left alone. At most `most`, at least 1.
int64_t useful_threads(const Call &call, int64_t pairs, int64_t most) {
  const double least = kEffort * (call.data.parallel ? 2e5 : 2e6);
  const double done = products(call, pairs);
  return std::max<int64_t>(1, done < least * static_cast<double>(most - 1) ? static_cast<int64_t>(1.0 + done / least) : most);
}

// A step's end, where a team's threads wait for each other, takes a microsecond.
int64_t useful_team(const Call &call, int64_t pairs, int64_t steps, int64_t most) {
  const double least = kEffort * 1e5, done = products(call, pairs) / static_cast<double>(std::max<int64_t>(1, steps));
  return std::max<int64_t>(1, done < least * static_cast<double>(most) ? static_cast<int64_t>(done / least) : most);
}

}  // namespace

int64_t computed_steps(const Call &call) {
  if (call.layer.update_mask == GAPCELL_NO_MASK) return call.N * call.T;
  int64_t count = 0;
  for (int64_t n = 0; n < call.N; ++n)
    for (int64_t t = 0; t < call.T; ++t) count += any_site(call, n, t);
  return count;
}

Schedule::Schedule(const Call &call) : first(call.N + 1), samples(call.N) {
  list_steps(call);
  deal_out(call);
}

void Schedule::list_steps(const Call &call) {
  for (int64_t n = 0; n < call.N; ++n) {
    for (int64_t k = 0; k < call.T; ++k) {
      const int64_t t = call.layer.reverse ? call.T - 1 - k : k;
      if (any_site(call, n, t)) steps.push_back(t);
    }
    first[n + 1] = static_cast<int64_t>(steps.size());
  }
}

void Schedule::deal_out(const Call &call) {
  std::vector<int64_t> cost(call.N), order(call.N);
  for (int64_t n = 0; n < call.N; ++n) cost[n] = pairs(call, *this, n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return cost[a] > cost[b]; });

  const int64_t pairs_in_all = std::accumulate(cost.begin(), cost.end(), int64_t{0});
  const int64_t threads = useful_threads(call, pairs_in_all, call.layer.threads);
  std::vector<std::vector<int64_t>> owned(std::max<int64_t>(1, std::min(threads, call.N)));
  if (call.N > 0 && threads / call.N > 1)
    team = static_cast<int>(useful_team(call, pairs_in_all, static_cast<int64_t>(steps.size()), threads / call.N));
  std::vector<int64_t> load(owned.size());
  for (int64_t n : order) {
    const auto least = std::min_element(load.begin(), load.end()) - load.begin();
    owned[least].push_back(n);
    load[least] += cost[n] + 1;  // one that computes nothing still has outputs to write
  }
  thread_first.push_back(0);
  int64_t placed = 0;
  for (auto &mine : owned) {
    // By steps, so that the samples still running at the k-th step are a prefix.
    const auto steps_of = [&](int64_t n) { return first[n + 1] - first[n]; };
    std::stable_sort(mine.begin(), mine.end(), [&](int64_t a, int64_t b) { return steps_of(a) > steps_of(b); });
    for (int64_t n : mine) samples[placed++] = n;
    thread_first.push_back(placed);
  }
}

}  // namespace gapcell
