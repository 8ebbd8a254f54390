// gapcell_forward and gapcell_backward as XLA calls them: typed foreign functions, which jax.ffi registers.
//
// The attribute `layer` holds the bytes of a gapcell_layer. Operands and results come in the order of the tables below,
// and one without elements stands for an absent array. Compiled only where XLA's headers were found.
#include "xla/ffi/api/ffi.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <string>

#include "checks.h"
#include "interface.h"
#include "memory.h"

namespace ffi = xla::ffi;
using gapcell::Refused;

extern "C" {
GAPCELL_API XLA_FFI_Error *gapcell_xla_forward(XLA_FFI_CallFrame *call_frame);
GAPCELL_API XLA_FFI_Error *gapcell_xla_backward(XLA_FFI_CallFrame *call_frame);
}

namespace {

enum class Values { kFloats, kInput, kWeights, kMask, kBytes };

struct Array {
  const char *name;
  gapcell_buffer gapcell_arguments::*place;
  Values values = Values::kFloats;
};

using Arguments = gapcell_arguments;

// Read by both.
constexpr Array kInputs[] = {
    {"x", &Arguments::x, Values::kInput},
    {"update", &Arguments::update, Values::kMask},
    {"recurrent_scale", &Arguments::recurrent_scale},
    {"kernel", &Arguments::kernel, Values::kWeights},
    {"recurrent_kernel", &Arguments::recurrent_kernel, Values::kWeights},
    {"bias", &Arguments::bias, Values::kWeights},
    {"recurrent_bias", &Arguments::recurrent_bias, Values::kWeights},
    {"h0", &Arguments::h0},
    {"c0", &Arguments::c0},
    {"dt", &Arguments::dt},
    {"rates", &Arguments::rates},
};
// Written by forward.
constexpr Array kStates[] = {
    {"hs", &Arguments::hs},
    {"h", &Arguments::h},
    {"c", &Arguments::c},
    {"stored", &Arguments::stored, Values::kBytes},
};
// Read by backward.
constexpr Array kCotangents[] = {
    {"hs", &Arguments::hs}, {"stored", &Arguments::stored, Values::kBytes},
    {"dhs", &Arguments::dhs}, {"dh", &Arguments::dh}, {"dc", &Arguments::dc},
};
// Written by backward.
constexpr Array kGradients[] = {
    {"dx", &Arguments::dx},
    {"dkernel", &Arguments::dkernel},
    {"drecurrent_kernel", &Arguments::drecurrent_kernel},
    {"dbias", &Arguments::dbias},
    {"drecurrent_bias", &Arguments::drecurrent_bias},
    {"dh0", &Arguments::dh0},
    {"dc0", &Arguments::dc0},
    {"drates", &Arguments::drates},
};

ffi::DataType wanted(Values values, const gapcell_layer &layer) {
  switch (values) {
    case Values::kInput: return layer.x_type == GAPCELL_BF16 ? ffi::BF16 : ffi::F32;
    case Values::kWeights: return layer.weight_type == GAPCELL_BF16 ? ffi::BF16 : ffi::F32;
    case Values::kMask: return ffi::PRED;
    case Values::kBytes: return ffi::U8;
    default: return ffi::F32;
  }
}

struct Call {
  gapcell_layer layer;
  gapcell_arguments arguments{};

  // Types can be told apart here only; sizes are checked by the kernel, which knows how many values an array has.
  void place(const Array &array, const ffi::AnyBuffer &buffer) {
    if (buffer.element_count() == 0) return;
    if (buffer.element_type() != wanted(array.values, layer))
      throw Refused("`" + std::string(array.name) + "` has another type of elements than `layer` says");
    arguments.*(array.place) = {buffer.untyped_data(), buffer.size_bytes()};
  }

  template <size_t kCount>
  void place_operands(const Array (&arrays)[kCount], const ffi::RemainingArgs &operands, size_t first) {
    for (size_t i = 0; i < kCount; ++i) place(arrays[i], operands.get<ffi::AnyBuffer>(first + i).value());
  }

  template <size_t kCount>
  void place_results(const Array (&arrays)[kCount], const ffi::RemainingRets &results) {
    for (size_t i = 0; i < kCount; ++i) place(arrays[i], *results.get<ffi::AnyBuffer>(i).value());
  }
};

void check_count(const char *of, size_t given, size_t expected) {
  if (given != expected)
    throw Refused(std::to_string(given) + " " + of + " are given, expected " + std::to_string(expected));
}

// The layer, with no more threads than XLA's own pool has: its user limits both in the same way.
gapcell_layer read_layer(ffi::Span<const uint8_t> bytes, const ffi::ThreadPool &pool) {
  gapcell_layer layer;
  check_count("bytes of `layer`", bytes.size(), sizeof layer);
  std::memcpy(&layer, bytes.begin(), sizeof layer);
  const int64_t most = std::max<int64_t>(pool.num_threads(), 1);
  layer.threads = static_cast<int32_t>(std::min<int64_t>(layer.threads, most));
  return layer;
}

// XLA aligns what it allocates to 64 bytes, but on some machines takes a caller's own memory as it lies: `stored` may
// have been to NumPy and back before the backward pass.
gapcell::Memory aligned_copy(gapcell_buffer &stored) {
  gapcell::Memory copy;
  if (reinterpret_cast<uintptr_t>(stored.data) % 64 == 0) return copy;
  copy = gapcell::Memory(stored.bytes);
  std::memcpy(copy.data(), stored.data, stored.bytes);
  stored.data = copy.data();
  return copy;
}

ffi::Error failure(int error, const std::string &text) {
  switch (error) {
    case GAPCELL_OK: return ffi::Error::Success();
    case GAPCELL_INVALID: return ffi::Error::InvalidArgument("gapcell: " + text);
    case GAPCELL_OUT_OF_MEMORY: return ffi::Error(ffi::ErrorCode::kResourceExhausted, "gapcell: out of memory");
    default:
      // A compiled function cannot turn to the pure form any more.
      return ffi::Error(ffi::ErrorCode::kFailedPrecondition,
                        "gapcell: " + text + ", and was not when this function was traced; call jax.clear_caches()");
  }
}

using Function = int (*)(const gapcell_layer *, const gapcell_arguments *, char *, uint64_t);

ffi::Error run(Function function, const Call &call) {
  char text[512];
  const int error = function(&call.layer, &call.arguments, text, sizeof text);
  return failure(error, text);
}

// No exception may leave a function that XLA calls.
template <class Work>
ffi::Error guarded(Work work) {
  try {
    return work();
  } catch (const Refused &refused) {
    return failure(GAPCELL_INVALID, refused.what());
  } catch (const std::bad_alloc &) {
    return failure(GAPCELL_OUT_OF_MEMORY, "");
  }
}

ffi::Error forward(ffi::ThreadPool pool, ffi::Span<const uint8_t> layer, ffi::RemainingArgs operands,
                   ffi::RemainingRets results) {
  return guarded([&] {
    check_count("operands", operands.size(), std::size(kInputs));
    check_count("results", results.size(), std::size(kStates));
    Call call{read_layer(layer, pool)};
    call.place_operands(kInputs, operands, 0);
    call.place_results(kStates, results);
    return run(gapcell_forward, call);
  });
}

ffi::Error backward(ffi::ThreadPool pool, ffi::Span<const uint8_t> layer, ffi::RemainingArgs operands,
                    ffi::RemainingRets results) {
  return guarded([&] {
    check_count("operands", operands.size(), std::size(kInputs) + std::size(kCotangents));
    check_count("results", results.size(), std::size(kGradients));
    Call call{read_layer(layer, pool)};
    call.place_operands(kInputs, operands, 0);
    call.place_operands(kCotangents, operands, std::size(kInputs));
    call.place_results(kGradients, results);
    const gapcell::Memory copy = aligned_copy(call.arguments.stored);
    return run(gapcell_backward, call);
  });
}

auto binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Attr<ffi::Span<const uint8_t>>("layer")
      .RemainingArgs()
      .RemainingRets();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(gapcell_xla_forward, forward, binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(gapcell_xla_backward, backward, binding());
