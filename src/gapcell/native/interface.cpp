#include "interface.h"

#include <cstdio>
#include <deque>
#include <exception>
#include <memory>
#include <new>
#include <vector>

#include "checks.h"
#include "decay.h"
#include "dispatch.h"
#include "geometry.h"
#include "memory.h"
#include "schedule.h"
#include "threads.h"

using gapcell::Call;
using gapcell::Decay;
using gapcell::Geometry;
using gapcell::Kernel;
using gapcell::Memory;
using gapcell::Refused;
using gapcell::Schedule;
using gapcell::Scratch;

struct gapcell_weights {
  const Kernel *kernel;
  gapcell_layer layer;
  Memory packed;
};

namespace {

void say(char *text, uint64_t text_bytes, const char *what) {
  if (text && text_bytes) std::snprintf(text, text_bytes, "%s", what);
}

// No exception may leave a C function.
template <class Work>
int guarded(char *text, uint64_t text_bytes, Work work) {
  try {
    work();
    say(text, text_bytes, "");
    return GAPCELL_OK;
  } catch (const Refused &refused) {
    say(text, text_bytes, refused.what());
    return GAPCELL_INVALID;
  } catch (const std::bad_alloc &) {
    say(text, text_bytes, "out of memory");
    return GAPCELL_OUT_OF_MEMORY;
  } catch (const std::exception &error) {
    say(text, text_bytes, error.what());
    return GAPCELL_UNAVAILABLE;
  }
}

const Kernel &kernel_in_use() {
  const Kernel *kernel = gapcell::active_kernel();
  if (!kernel) throw std::runtime_error("the compiled kernel is switched off");
  return *kernel;
}

Memory floats(uint64_t count) { return Memory(count * sizeof(float)); }
float *data(const Memory &memory) { return static_cast<float *>(memory.data()); }

// One for each thread's samples, where they are shared.
class Teams {
 public:
  explicit Teams(Call &call) {
    if (call.active.team < 2) return;
    for (int i = 0; i < call.active.threads; ++i) teams_.push_back(&all_.emplace_back(call.active.team));
    if (call.layer.cell == GAPCELL_LSTM)
      c_ = floats(static_cast<uint64_t>(call.N * call.P * call.padded_filters));
    call.teams = teams_.data();
    call.team_c = data(c_);
  }

 private:
  std::deque<gapcell::Team> all_;
  std::vector<gapcell::Team *> teams_;
  Memory c_;
};

// Everything a call's weights depend on is what the handle was made for.
void check_same_weights(const gapcell_layer &made_for, const gapcell_layer &layer) {
  bool same = made_for.cell == layer.cell && made_for.rank == layer.rank && made_for.channels == layer.channels &&
              made_for.filters == layer.filters;
  for (int a = 0; same && a < layer.rank; ++a)
    same = made_for.kernel_size[a] == layer.kernel_size[a] &&
           made_for.recurrent_kernel_size[a] == layer.recurrent_kernel_size[a];
  if (!same) throw Refused("`weights` were packed for a layer of other sizes");
}

void forward(Call &call) {
  const gapcell_weights *weights = call.data.weights;
  if (weights) check_same_weights(weights->layer, call.layer);
  gapcell::check_forward(call, weights != nullptr);
  const Kernel &kernel = weights ? *weights->kernel : kernel_in_use();
  const Geometry geometry(call, false);
  const Schedule schedule(call);
  call.tables = geometry.tables();
  call.active = schedule.active();
  gapcell::check_stored(call);
  const Decay decay(call);
  call.decay = decay.tables();
  Memory packed;
  if (!weights) {
    packed = floats(kernel.packed_floats(call));
    kernel.pack(call, data(packed));
  }
  call.packed = data(weights ? weights->packed : packed);
  const Teams teams(call);
  gapcell::prefer_large_pages(call.data.hs);
  gapcell::prefer_large_pages(call.data.stored);
  gapcell::run_parts(call.active.threads * call.active.team, call.data.parallel, [&](int part) {
    Scratch scratch;
    kernel.forward(call, part, scratch);
  });
}

// One phase of a team's work, see threads.h.
template <class Work>
void in_slices(gapcell::Team &team, int64_t phase, Work work) {
  struct Finish {  // also of a slice that throws: the others must not wait for it
    gapcell::Team &team;
    ~Finish() { gapcell::finish_slice(team); }
  };
  for (int slice = claim_slice(team, phase); slice >= 0; slice = claim_slice(team, phase)) {
    const Finish finish{team};
    work(slice);
  }
  wait_for_slices(team, phase);
}

void backward(Call &call) {
  gapcell::check_backward(call);
  const Kernel &kernel = kernel_in_use();
  const Geometry geometry(call, true);
  const Schedule schedule(call);
  call.tables = geometry.tables();
  call.active = schedule.active();
  gapcell::check_stored(call);
  const Decay decay(call);
  call.decay = decay.tables();
  Memory packed, transposed = floats(kernel.transposed_floats(call));
  if (call.layer.store == GAPCELL_STORE_RECOMPUTE) {
    packed = floats(kernel.packed_floats(call));
    kernel.pack(call, data(packed));
    call.packed = data(packed);
  }
  kernel.pack_transposed(call, data(transposed));
  call.packed_transposed = data(transposed);
  call.gradient_floats = static_cast<int64_t>(kernel.gradient_floats(call));
  const Memory gradients = floats(call.gradient_floats * call.active.threads);
  call.gradients = data(gradients);
  gapcell::prefer_large_pages(call.data.dx);
  const int parts = call.active.threads;
  gapcell::Team team(parts);
  gapcell::run_parts(parts, call.data.parallel, [&](int) {
    in_slices(team, 0, [&](int part) {
      Scratch scratch;
      kernel.backward(call, part, scratch);
    });
    // Only now are all threads' sums complete.
    in_slices(team, 1, [&](int part) { kernel.reduce_gradients(call, part, parts); });
  });
}

Call checked_call(const gapcell_layer *layer, const gapcell_arguments *arguments) {
  if (!arguments) throw Refused("no arguments are given");
  Call call = gapcell::checked_layer(layer);
  call.data = *arguments;
  return call;
}

}  // namespace

extern "C" {

uint32_t gapcell_interface_version(void) { return GAPCELL_INTERFACE_VERSION; }

const char *gapcell_active(void) {
  try {
    const Kernel *kernel = gapcell::active_kernel();
    return kernel ? kernel->name : "off";
  } catch (const std::exception &) {
    return "off";
  }
}

const char *gapcell_active_reason(void) {
  try {
    return gapcell::active_reason();
  } catch (const std::exception &) {
    return "GAPCELL_KERNEL names a kernel that this machine or this build does not have";
  }
}

int gapcell_choose(const char *name, char *text, uint64_t text_bytes) {
  return guarded(text, text_bytes, [&] { gapcell::choose_kernel(name ? name : ""); });
}

int gapcell_stored_bytes(const gapcell_layer *layer, gapcell_buffer update, uint64_t *bytes, char *text,
                         uint64_t text_bytes) {
  return guarded(text, text_bytes, [&] {
    if (!bytes) throw Refused("`bytes` is missing");
    Call call = gapcell::checked_layer(layer);
    call.data.update = update;
    if (!update.data) call.layer.update_mask = GAPCELL_NO_MASK;
    gapcell::check_update(call);
    *bytes = gapcell::stored_bytes(call, gapcell::computed_steps(call));
  });
}

int gapcell_forward(const gapcell_layer *layer, const gapcell_arguments *arguments, char *text, uint64_t text_bytes) {
  return guarded(text, text_bytes, [&] {
    Call call = checked_call(layer, arguments);
    forward(call);
  });
}

int gapcell_backward(const gapcell_layer *layer, const gapcell_arguments *arguments, char *text, uint64_t text_bytes) {
  return guarded(text, text_bytes, [&] {
    Call call = checked_call(layer, arguments);
    backward(call);
  });
}

int gapcell_weights_create(const gapcell_layer *layer, const gapcell_arguments *arguments, gapcell_weights **weights,
                           char *text, uint64_t text_bytes) {
  return guarded(text, text_bytes, [&] {
    if (!weights) throw Refused("`weights` is missing");
    const Call call = checked_call(layer, arguments);
    gapcell::check_weights(call);
    const Kernel &kernel = kernel_in_use();
    auto made = std::make_unique<gapcell_weights>();
    made->kernel = &kernel;
    made->layer = call.layer;
    made->packed = floats(kernel.packed_floats(call));
    kernel.pack(call, data(made->packed));
    *weights = made.release();
  });
}

void gapcell_weights_free(gapcell_weights *weights) { delete weights; }

double gapcell_peak_flops(double seconds) {
  try {
    return kernel_in_use().peak_flops(seconds);
  } catch (const std::exception &) {
    return 0.0;
  }
}

uint64_t gapcell_idle_bytes(void) { return gapcell::idle_bytes(); }
void gapcell_release_idle(void) { gapcell::release_idle(); }

}  // extern "C"
