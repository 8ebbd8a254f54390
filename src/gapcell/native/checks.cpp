#include "checks.h"

#include <string>

namespace gapcell {
namespace {

constexpr int64_t kMostSites = int64_t{1} << 30;    // tap tables hold 32-bit numbers
constexpr int64_t kMostSamples = int64_t{1} << 30;  // and so do the pairs of rows.hpp

[[noreturn]] void refuse(const std::string &text) { throw Refused(text); }

void check_range(const char *name, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return;
  refuse("`" + std::string(name) + "` is " + std::to_string(value) + ", expected " + std::to_string(least) + " to " +
         std::to_string(most));
}

int64_t product(const char *name, int64_t a, int64_t b, int64_t most = int64_t{1} << 46) {
  int64_t result = 0;
  if (__builtin_mul_overflow(a, b, &result) || result > most) refuse("`" + std::string(name) + "` is too large");
  return result;
}

int64_t product_of(const char *name, const int64_t *sizes, int rank) {
  int64_t all = 1;
  for (int a = 0; a < rank; ++a) {
    check_range(name, sizes[a], 1, kMostSites);
    all = product(name, all, sizes[a], kMostSites);
  }
  return all;
}

enum class Need { kRequired, kOptional, kAbsent };

void check_buffer(const char *name, const gapcell_buffer &buffer, int64_t values, int64_t value_bytes, Need need) {
  const std::string quoted = "`" + std::string(name) + "`";
  if (need == Need::kAbsent) {
    if (buffer.data) refuse(quoted + " is given, but this layer has none");
    return;
  }
  const auto expected = static_cast<uint64_t>(product(name, values, value_bytes));
  if (!buffer.data && (need == Need::kOptional || expected == 0)) return;
  if (!buffer.data) refuse(quoted + " is missing");
  if (buffer.bytes != expected)
    refuse(quoted + " has " + std::to_string(buffer.bytes) + " bytes, expected " + std::to_string(expected));
  if (reinterpret_cast<uintptr_t>(buffer.data) % static_cast<uintptr_t>(value_bytes))
    refuse(quoted + " does not begin at a multiple of " + std::to_string(value_bytes) + " bytes");
}

int64_t mask_values(const char *name, int kind, const Call &call, int64_t sites, int64_t channels) {
  const int64_t steps = product(name, call.N, call.T);
  if (kind == GAPCELL_STEPS) return steps;
  const int64_t all = product(name, steps, sites);
  return kind == GAPCELL_SITES ? all : product(name, all, channels);
}

void check_mask(const char *name, const gapcell_buffer &buffer, int kind, const Call &call, int64_t sites) {
  if (kind == GAPCELL_NO_MASK) return check_buffer(name, buffer, 0, 1, Need::kAbsent);
  check_buffer(name, buffer, mask_values(name, kind, call, sites, call.C), 1, Need::kRequired);
}

int64_t type_bytes(int type) { return type == GAPCELL_BF16 ? 2 : 4; }
int64_t outputs(const Call &call) {
  return product("hs", product("hs", call.N, call.T), product("hs", call.P, call.F));
}
int64_t state(const Call &call) { return product("h0", call.N, product("h0", call.P, call.F)); }
bool has_c(const Call &call) { return call.layer.cell == GAPCELL_LSTM; }

// What forward and backward both read.
void check_inputs(const Call &call) {
  const gapcell_arguments &data = call.data;
  check_buffer("x", data.x, product("x", product("x", call.N, call.T), product("x", call.S, call.C)),
               type_bytes(call.layer.x_type), Need::kRequired);
  check_mask("observed", data.observed, call.layer.observed_mask, call, call.S);
  check_update(call);
  if (call.layer.recurrent_scale == GAPCELL_NO_MASK) {
    check_buffer("recurrent_scale", data.recurrent_scale, 0, 4, Need::kAbsent);
  } else {
    const int64_t sites = call.layer.recurrent_scale == GAPCELL_SITES ? call.P : 1;
    check_buffer("recurrent_scale", data.recurrent_scale,
                 product("recurrent_scale", call.N, product("recurrent_scale", sites, call.F)), 4, Need::kRequired);
  }
  check_buffer("h0", data.h0, state(call), 4, Need::kOptional);
  check_buffer("c0", data.c0, state(call), 4, has_c(call) ? Need::kOptional : Need::kAbsent);
  if (!data.rates.data && data.dt.data) refuse("`dt` is given without `rates`");
  check_buffer("rates", data.rates, call.F, 4, Need::kOptional);
  check_buffer("dt", data.dt, product("dt", call.N, call.T), 4, data.rates.data ? Need::kRequired : Need::kAbsent);
  if (data.rates.data) product("dt", product("dt", call.N, call.T), call.padded_filters);
  check_buffer("hs", data.hs, outputs(call), 4, Need::kRequired);
}

}  // namespace

Call checked_layer(const gapcell_layer *given) {
  if (!given) refuse("no layer is given");
  if (given->version != GAPCELL_INTERFACE_VERSION)
    refuse("the caller speaks interface version " + std::to_string(given->version) + ", this library version " +
           std::to_string(GAPCELL_INTERFACE_VERSION));
  Call call{};
  gapcell_layer &layer = call.layer;
  layer = *given;
  check_range("cell", layer.cell, GAPCELL_LSTM, GAPCELL_GRU);
  check_range("rank", layer.rank, 1, 3);
  check_range("x_type", layer.x_type, GAPCELL_FP32, GAPCELL_BF16);
  check_range("weight_type", layer.weight_type, GAPCELL_FP32, GAPCELL_BF16);
  check_range("observed_mask", layer.observed_mask, GAPCELL_NO_MASK, GAPCELL_ELEMENTS);
  check_range("update_mask", layer.update_mask, GAPCELL_NO_MASK, GAPCELL_SITES);
  check_range("recurrent_scale", layer.recurrent_scale, GAPCELL_NO_MASK, GAPCELL_SITES);
  check_range("held_output", layer.held_output, GAPCELL_HELD_ZERO, GAPCELL_HELD_STATE);
  check_range("store", layer.store, GAPCELL_STORE_NONE, GAPCELL_STORE_RECOMPUTE);
  check_range("reverse", layer.reverse, 0, 1);
  check_range("wraps", layer.wraps, 0, layer.rank == 1 ? 1 : 0);
  check_range("threads", layer.threads, 1, 1024);
  check_range("reserved", layer.reserved, 0, 0);
  check_range("samples", layer.samples, 0, kMostSamples);
  check_range("steps", layer.steps, 0, int64_t{1} << 40);
  check_range("channels", layer.channels, 1, 1 << 24);
  check_range("filters", layer.filters, 1, 1 << 24);
  for (int a = 0; a < layer.rank; ++a) {
    check_range("stride", layer.stride[a], 1, kMostSites);
    check_range("dilation", layer.dilation[a], 1, kMostSites);
    check_range("left", layer.left[a], -kMostSites, kMostSites);
    check_range("recurrent_left", layer.recurrent_left[a], -kMostSites, kMostSites);
  }
  call.N = layer.samples;
  call.T = layer.steps;
  call.C = layer.channels;
  call.F = layer.filters;
  call.S = product_of("sites", layer.sites, layer.rank);
  call.P = product_of("output_sites", layer.output_sites, layer.rank);
  call.taps = static_cast<int>(product_of("kernel_size", layer.kernel_size, layer.rank));
  call.recurrent_taps = static_cast<int>(product_of("recurrent_kernel_size", layer.recurrent_kernel_size, layer.rank));
  call.reader_taps =
      static_cast<int>(product("recurrent_kernel_size", call.recurrent_taps, layer.wraps ? 2 : 1, kMostSites));
  product("steps", call.N, call.T);
  product("kernel_size", call.taps, call.P, kMostSites);
  product("kernel_size", call.taps, call.S, kMostSites);
  product("recurrent_kernel_size", call.reader_taps, call.P, kMostSites);
  call.blocks = (call.F + kBlock - 1) / kBlock;
  call.padded_filters = call.blocks * kBlock;
  return call;
}

void check_weights(const Call &call) {
  const gapcell_arguments &data = call.data;
  const int64_t bytes = type_bytes(call.layer.weight_type), width = call.F * (has_c(call) ? 4 : 3);
  check_buffer("kernel", data.kernel, product("kernel", product("kernel", call.taps, call.C), width), bytes,
               Need::kRequired);
  check_buffer("recurrent_kernel", data.recurrent_kernel,
               product("recurrent_kernel", product("recurrent_kernel", call.recurrent_taps, call.F), width), bytes,
               Need::kRequired);
  check_buffer("bias", data.bias, width, bytes, Need::kOptional);
  check_buffer("recurrent_bias", data.recurrent_bias, call.F, bytes, has_c(call) ? Need::kAbsent : Need::kOptional);
}

void check_update(const Call &call) { check_mask("update", call.data.update, call.layer.update_mask, call, call.P); }

void check_forward(const Call &call, bool packed) {
  check_inputs(call);
  if (!packed) check_weights(call);
  check_buffer("h", call.data.h, state(call), 4, Need::kOptional);
  check_buffer("c", call.data.c, state(call), 4, has_c(call) ? Need::kOptional : Need::kAbsent);
}

void check_backward(const Call &call) {
  check_inputs(call);
  check_weights(call);
  const gapcell_arguments &data = call.data;
  const Need c = has_c(call) ? Need::kOptional : Need::kAbsent;
  const int64_t width = call.F * (has_c(call) ? 4 : 3);
  if (call.layer.store == GAPCELL_STORE_NONE) refuse("`store` is none: forward has kept nothing for backward");
  check_buffer("dhs", data.dhs, outputs(call), 4, Need::kOptional);
  check_buffer("dh", data.dh, state(call), 4, Need::kOptional);
  check_buffer("dc", data.dc, state(call), 4, c);
  check_buffer("dx", data.dx, call.N * call.T * call.S * call.C, 4, Need::kOptional);
  check_buffer("dh0", data.dh0, state(call), 4, Need::kOptional);
  check_buffer("dc0", data.dc0, state(call), 4, c);
  check_buffer("dkernel", data.dkernel, call.taps * call.C * width, 4, Need::kOptional);
  check_buffer("drecurrent_kernel", data.drecurrent_kernel, call.recurrent_taps * call.F * width, 4, Need::kOptional);
  check_buffer("dbias", data.dbias, width, 4, Need::kOptional);
  check_buffer("drecurrent_bias", data.drecurrent_bias, call.F, 4, has_c(call) ? Need::kAbsent : Need::kOptional);
  check_buffer("drates", data.drates, call.F, 4, data.rates.data ? Need::kOptional : Need::kAbsent);
}

uint64_t stored_bytes(const Call &call, int64_t computed_steps) {
  const int64_t gates = call.layer.store == GAPCELL_STORE_FP32 ? 4 : call.layer.store == GAPCELL_STORE_BF16 ? 2 : 0;
  if (call.layer.store == GAPCELL_STORE_NONE) return 0;
  const int64_t pairs = product("stored", computed_steps, call.P);
  return product("stored", product("stored", pairs, call.padded_filters), (has_c(call) ? 4 : 0) + kGates * gates);
}

void check_stored(const Call &call) {
  const uint64_t needed = stored_bytes(call, call.active.first[call.N]);
  const gapcell_buffer &stored = call.data.stored;
  if (stored.data && call.layer.store == GAPCELL_STORE_NONE) refuse("`stored` is given, but `store` is none");
  if (needed == 0) return;
  if (!stored.data) refuse("`stored` is missing");
  if (stored.bytes < needed)
    refuse("`stored` has " + std::to_string(stored.bytes) + " bytes, expected at least " + std::to_string(needed));
  if (reinterpret_cast<uintptr_t>(stored.data) % 64) refuse("`stored` does not begin at a multiple of 64 bytes");
}

}  // namespace gapcell
