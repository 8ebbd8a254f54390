#include "arrays.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr uint64_t kGuard = 0;
#else
constexpr uint64_t kGuard = 128;
#endif
constexpr unsigned char kGuardByte = 0xA5, kClear = 0xFF;  // the latter is NaN as fp32 and as bf16

bool all_are(const unsigned char *from, uint64_t count, unsigned char byte) {
  return std::all_of(from, from + count, [byte](unsigned char b) { return b == byte; });
}

[[noreturn]] void fail(const Member &member, const char *what) {
  throw std::runtime_error("`" + std::string(member.name) + "` " + what);
}

}  // namespace

void Array::Free::operator()(void *memory) const { std::free(memory); }

Array::Array(uint64_t bytes, uint64_t start) : bytes_(bytes), start_(start) {
  void *memory = nullptr;
  if (posix_memalign(&memory, 64, kGuard + start + bytes + kGuard)) throw std::bad_alloc();
  memory_.reset(memory);
  data_ = static_cast<unsigned char *>(memory) + kGuard + start;
  std::memset(memory, kGuardByte, kGuard + start + bytes + kGuard);
  clear();
}

void Array::clear() {
  std::fill_n(data_, bytes_, kClear);
  is_sealed_ = false;
}
void Array::seal() {
  sum_ = sum();
  is_sealed_ = true;
}
bool Array::unchanged() const { return !is_sealed_ || sum_ == sum(); }
bool Array::is_clear() const { return all_are(data_, bytes_, kClear); }
bool Array::all_finite() const {
  return std::all_of(as<float>(), as<float>() + bytes_ / 4, [](float value) { return std::isfinite(value); });
}
bool Array::intact() const {
  return all_are(data_ - kGuard - start_, kGuard + start_, kGuardByte) && all_are(data_ + bytes_, kGuard, kGuardByte);
}

uint64_t Array::sum() const {  // FNV-1a
  uint64_t sum = 0xCBF29CE484222325;
  for (uint64_t i = 0; i < bytes_; ++i) sum = (sum ^ data_[i]) * 0x100000001B3;
  return sum;
}

Batch::Batch(const gapcell_layer &layer, Random &random) : layer_(layer), sizes_(layer), random_(random) {
  add_numbers("x", &gapcell_arguments::x, 1, sizes_.N * sizes_.T * sizes_.S * sizes_.C, 1, layer.x_type);
  add_masks();
  add_weights();
  add_states();
  add_results();
  add_decay();
  hide_what_is_masked();
  for (Member &member : members_)
    if (member.writer == Writer::kCaller && member.array.present()) member.array.seal();
}

Array &Batch::add(const char *name, gapcell_buffer gapcell_arguments::*place, Writer writer, double share,
                  int64_t values, int64_t value_bytes) {
  Array array;
  if (share >= 1 || random_.chance(share))
    array =
        Array(static_cast<uint64_t>(values * value_bytes), static_cast<uint64_t>(random_.between(0, 15) * value_bytes));
  members_.push_back({name, place, writer, share >= 1, std::move(array)});
  return members_.back().array;
}

void Batch::add_numbers(const char *name, gapcell_buffer gapcell_arguments::*place, double share, int64_t values,
                        float size, int type) {
  const Array &array = add(name, place, Writer::kCaller, share, values, type == GAPCELL_BF16 ? 2 : 4);
  for (int64_t i = 0; array.present() && i < values; ++i) {
    const float value = size * random_.real();
    if (type == GAPCELL_FP32) {
      array.as<float>()[i] = value;
    } else {
      uint32_t bits;
      std::memcpy(&bits, &value, sizeof bits);
      array.as<uint16_t>()[i] = static_cast<uint16_t>(bits >> 16);
    }
  }
}

void Batch::add_masks() {
  const auto mask = [&](const char *name, gapcell_buffer gapcell_arguments::*place, int kind, int64_t sites) {
    if (kind == GAPCELL_NO_MASK) return;
    const int64_t each = kind == GAPCELL_STEPS ? 1 : kind == GAPCELL_SITES ? sites : sites * sizes_.C;
    const Array &array = add(name, place, Writer::kCaller, 1, sizes_.N * sizes_.T * each, 1);
    for (int64_t n = 0; n < sizes_.N; ++n) {
      const double share = random_.one_of({0.0, 0.3, 0.7, 1.0});  // empty rows and full ones among them
      for (int64_t i = 0; i < sizes_.T * each; ++i)
        array.as<uint8_t>()[n * sizes_.T * each + i] =
            random_.chance(share) ? static_cast<uint8_t>(random_.between(1, 255)) : uint8_t{0};
    }
  };
  mask("observed", &gapcell_arguments::observed, layer_.observed_mask, sizes_.S);
  mask("update", &gapcell_arguments::update, layer_.update_mask, sizes_.P);
  if (layer_.recurrent_scale == GAPCELL_NO_MASK) return;
  const int64_t each = layer_.recurrent_scale == GAPCELL_SITES ? sizes_.P : 1;
  add_numbers("recurrent_scale", &gapcell_arguments::recurrent_scale, 1, sizes_.N * each * sizes_.F, 1.5f);
}

void Batch::add_weights() {
  const int64_t reads = sizes_.taps * sizes_.C, states = sizes_.recurrent_taps * sizes_.F, width = sizes_.G * sizes_.F;
  const float size = 1 / std::sqrt(static_cast<float>(reads + states));
  const int type = layer_.weight_type;
  add_numbers("kernel", &gapcell_arguments::kernel, 1, reads * width, size, type);
  add_numbers("recurrent_kernel", &gapcell_arguments::recurrent_kernel, 1, states * width, size, type);
  add_numbers("bias", &gapcell_arguments::bias, 0.8, width, 1, type);
  if (layer_.cell == GAPCELL_GRU)
    add_numbers("recurrent_bias", &gapcell_arguments::recurrent_bias, 0.8, sizes_.F, 1, type);
}

void Batch::add_states() {
  const int64_t values = sizes_.N * sizes_.P * sizes_.F;
  add_numbers("h0", &gapcell_arguments::h0, 0.6, values, 1);
  add_numbers("dh", &gapcell_arguments::dh, 0.6, values, 1);
  add_numbers("dhs", &gapcell_arguments::dhs, 0.8, sizes_.T * values, 1);
  if (layer_.cell == GAPCELL_GRU) return;
  add_numbers("c0", &gapcell_arguments::c0, 0.6, values, 1);
  add_numbers("dc", &gapcell_arguments::dc, 0.6, values, 1);
}

void Batch::add_decay() {
  if (!random_.chance(0.4)) return;
  add_numbers("rates", &gapcell_arguments::rates, 1, sizes_.F, 1);  // half of them below 0
  const int64_t steps = sizes_.N * sizes_.T;
  add_numbers("dt", &gapcell_arguments::dt, 1, steps, 3);
  for (int64_t i = 0; i < steps; ++i) (*this)["dt"].as<float>()[i] = std::fabs((*this)["dt"].as<float>()[i]);
  add("drates", &gapcell_arguments::drates, Writer::kBackward, 0.7, sizes_.F);
}

void Batch::add_results() {
  const Sizes &s = sizes_;
  const int64_t state = s.N * s.P * s.F, width = s.G * s.F;
  add("hs", &gapcell_arguments::hs, Writer::kForward, 1, s.T * state);
  add("h", &gapcell_arguments::h, Writer::kForward, 0.7, state);
  add("dx", &gapcell_arguments::dx, Writer::kBackward, 0.7, s.N * s.T * s.S * s.C);
  add("dh0", &gapcell_arguments::dh0, Writer::kBackward, 0.6, state);
  add("dkernel", &gapcell_arguments::dkernel, Writer::kBackward, 0.8, s.taps * s.C * width);
  add("drecurrent_kernel", &gapcell_arguments::drecurrent_kernel, Writer::kBackward, 0.8,
      s.recurrent_taps * s.F * width);
  add("dbias", &gapcell_arguments::dbias, Writer::kBackward, 0.7, width);
  if (layer_.cell == GAPCELL_GRU) {
    add("drecurrent_bias", &gapcell_arguments::drecurrent_bias, Writer::kBackward, 0.7, s.F);
  } else {
    add("c", &gapcell_arguments::c, Writer::kForward, 0.7, state);
    add("dc0", &gapcell_arguments::dc0, Writer::kBackward, 0.6, state);
  }
}

// x where it is not observed, and the cotangents of outputs that were held as zero.
void Batch::hide_what_is_masked() {
  const auto hide = [](const Array &values, const Array &mask) {
    for (uint64_t i = 0; mask.bytes() && i < mask.bytes(); ++i) {
      const uint64_t each = values.bytes() / mask.bytes();
      if (!mask.as<uint8_t>()[i]) std::fill_n(values.as<uint8_t>() + i * each, each, kClear);
    }
  };
  if (layer_.observed_mask != GAPCELL_NO_MASK) hide((*this)["x"], (*this)["observed"]);
  if (layer_.update_mask != GAPCELL_NO_MASK && layer_.held_output == GAPCELL_HELD_ZERO && (*this)["dhs"].present())
    hide((*this)["dhs"], (*this)["update"]);
}

void Batch::make_stored(uint64_t bytes) {
  members_.push_back({"stored", &gapcell_arguments::stored, Writer::kForwardForBackward, true, Array(bytes, 0)});
}

gapcell_arguments Batch::arguments() const {
  gapcell_arguments arguments{};
  for (const Member &member : members_) arguments.*member.place = member.array.buffer();
  return arguments;
}

Array &Batch::operator[](const char *name) {
  for (Member &member : members_)
    if (std::strcmp(member.name, name) == 0) return member.array;
  throw std::logic_error(name);
}

void Batch::clear(Writer writer) {
  for (Member &member : members_)
    if (member.writer == writer && member.array.present()) member.array.clear();
}

void Batch::check_untouched() const {
  for (const Member &member : members_)
    if (member.array.present() && member.writer != Writer::kCaller && !member.array.is_clear())
      fail(member, "was written by a refused call");
  check_rest();
}

void Batch::check_written(Writer writer) {
  for (Member &member : members_) {
    if (member.writer != writer || !member.array.present()) continue;
    if (!member.array.all_finite()) fail(member, "was left out somewhere, or is not finite");
    member.array.seal();
  }
}

void Batch::check_rest() const {
  for (const Member &member : members_) {
    if (!member.array.present()) continue;
    if (!member.array.intact()) fail(member, "was written beyond its size");
    if (!member.array.unchanged()) fail(member, "is only read, but has changed");
  }
}
