#include "wrong.h"

#include <cstdint>
#include <cstring>
#include <iterator>
#include <stdexcept>

namespace {

struct Choice {
  const char *name;
  int32_t gapcell_layer::*place;
  int32_t most;
};

constexpr Choice kChoices[] = {{"cell", &gapcell_layer::cell, 1},
                               {"rank", &gapcell_layer::rank, 3},
                               {"x_type", &gapcell_layer::x_type, 1},
                               {"weight_type", &gapcell_layer::weight_type, 1},
                               {"observed_mask", &gapcell_layer::observed_mask, 3},
                               {"update_mask", &gapcell_layer::update_mask, 2},
                               {"recurrent_scale", &gapcell_layer::recurrent_scale, 2},
                               {"held_output", &gapcell_layer::held_output, 1},
                               {"store", &gapcell_layer::store, 3},
                               {"reverse", &gapcell_layer::reverse, 1},
                               {"wraps", &gapcell_layer::wraps, 1},
                               {"threads", &gapcell_layer::threads, 1024},
                               {"reserved", &gapcell_layer::reserved, 0}};

struct Size {
  const char *name;
  int64_t gapcell_layer::*place;
};
constexpr Size kSizes[] = {{"samples", &gapcell_layer::samples},
                           {"steps", &gapcell_layer::steps},
                           {"channels", &gapcell_layer::channels},
                           {"filters", &gapcell_layer::filters}};

struct Axes {
  const char *name;
  int64_t (gapcell_layer::*place)[3];
};
constexpr Axes kAxes[] = {{"sites", &gapcell_layer::sites},
                          {"output_sites", &gapcell_layer::output_sites},
                          {"kernel_size", &gapcell_layer::kernel_size},
                          {"recurrent_kernel_size", &gapcell_layer::recurrent_kernel_size},
                          {"stride", &gapcell_layer::stride},
                          {"dilation", &gapcell_layer::dilation}};
constexpr Axes kShifts[] = {{"left", &gapcell_layer::left}, {"recurrent_left", &gapcell_layer::recurrent_left}};

class Wrong {
 public:
  Wrong(const gapcell_layer &layer, const Batch &batch, Random &random)
      : layer_(layer), batch_(batch), random_(random), call_{} {}

  // False where this layer or batch has nothing of that kind to be wrong.
  using Kind = bool (Wrong::*)();

  WrongCall draw() {
    static constexpr struct {
      const char *name;
      Kind kind;
    } kinds[] = {
        {"version", &Wrong::version},     {"choice", &Wrong::choice},           {"size", &Wrong::size},
        {"axis", &Wrong::axis},           {"another size", &Wrong::other_size}, {"shift", &Wrong::shift},
        {"bytes", &Wrong::bytes},         {"missing", &Wrong::missing},         {"not of this layer", &Wrong::alien},
        {"alignment", &Wrong::alignment}, {"too much", &Wrong::too_much},       {"no structure", &Wrong::no_structure}};
    for (;;) {
      const auto &drawn = kinds[random_.between(0, std::size(kinds) - 1)];
      call_ = {drawn.name, "", layer_, batch_.arguments()};
      if ((this->*drawn.kind)()) return call_;
    }
  }

 private:
  bool version() {
    call_.layer.version += static_cast<uint32_t>(random_.one_of({-1, 1, 1 << 30}));
    return say("version", call_.layer.version);
  }

  bool choice() {
    const Choice &choice = kChoices[random_.between(0, std::size(kChoices) - 1)];
    return say(choice.name, call_.layer.*choice.place = random_.one_of({-1, INT32_MIN, choice.most + 1, INT32_MAX}));
  }

  int64_t no_size() { return random_.one_of<int64_t>({-1, INT64_MIN, INT64_MIN + 1, INT64_MAX, int64_t{1} << 62}); }

  bool size() {
    const Size &size = kSizes[random_.between(0, std::size(kSizes) - 1)];
    return say(size.name, call_.layer.*size.place = no_size());
  }

  bool axis() {
    const Axes &axes = kAxes[random_.between(0, std::size(kAxes) - 1)];
    const int64_t value = random_.chance(0.3) ? 0 : random_.chance(0.3) ? int64_t{1} << 40 : no_size();
    return say(axes.name, (call_.layer.*axes.place)[random_.between(0, layer_.rank - 1)] = value);
  }

  bool shift() {
    const Axes &axes = kShifts[random_.between(0, 1)];
    return say(axes.name, (call_.layer.*axes.place)[random_.between(0, layer_.rank - 1)] =
                              random_.one_of<int64_t>({INT64_MIN, INT64_MAX, int64_t{1} << 40, -(int64_t{1} << 40)}));
  }

  // A size that is possible, but not that of the arrays. An empty batch may well have any other size.
  bool other_size() {
    if (layer_.samples == 0 || layer_.steps == 0) return false;
    const int64_t factor = random_.one_of<int64_t>({1, 1, 1 << 10, 1 << 20, int64_t{1} << 30});
    if (random_.chance(0.5)) {
      const Size &size = kSizes[random_.between(0, std::size(kSizes) - 1)];
      int64_t &value = call_.layer.*size.place;
      return say(size.name, value = factor == 1 ? value + 1 : value * factor);
    }
    const Axes &axes = kAxes[random_.between(0, 3)];
    int64_t &value = (call_.layer.*axes.place)[random_.between(0, layer_.rank - 1)];
    return say(axes.name, value = factor == 1 ? value + 1 : value * factor);
  }

  // Any array that is given, of those that the call looks at.
  const Member *given() {
    const Member &member = batch_.members()[random_.between(0, batch_.members().size() - 1)];
    if (!member.array.present()) return nullptr;
    call_.backward = read_or_written_by_backward_alone(member);
    return call_.backward && layer_.store == GAPCELL_STORE_NONE ? nullptr : &member;
  }
  static bool read_or_written_by_backward_alone(const Member &member) {
    for (const char *name : {"dh", "dc", "dhs"})
      if (std::strcmp(member.name, name) == 0) return true;
    return member.writer == Writer::kBackward;
  }

  bool bytes() {
    const Member *member = given();
    if (!member) return false;
    uint64_t &bytes = (call_.arguments.*member->place).bytes;
    const uint64_t right = bytes;
    if (member->writer == Writer::kForwardForBackward) {  // at least so many
      if (right == 0) return false;
      bytes = random_.one_of<uint64_t>({0, right / 2, right - 1});
    } else {
      bytes = random_.one_of<uint64_t>({0, right - 1, right + 1, 2 * right, right + (uint64_t{1} << 32), UINT64_MAX});
    }
    return bytes != right && say(member->name, static_cast<int64_t>(bytes));
  }

  bool missing() {
    const Member *member = given();
    if (!member || !member->wanted || member->array.bytes() == 0) return false;
    call_.arguments.*member->place = {nullptr, random_.chance(0.5) ? member->array.bytes() : 0};
    return say(member->name, 0);
  }

  bool alignment() {
    const Member *member = given();
    if (!member || member->array.bytes() < 64 || std::strcmp(member->name, "observed") == 0 ||
        std::strcmp(member->name, "update") == 0)
      return false;
    gapcell_buffer &buffer = call_.arguments.*member->place;
    buffer.data = static_cast<char *>(buffer.data) + 1;
    return say(member->name, 1);
  }

  // Something that another layer would have.
  bool alien() {
    using Place = gapcell_buffer gapcell_arguments::*;
    const Place place = random_.one_of<Place>(
        {&gapcell_arguments::dt, &gapcell_arguments::rates, &gapcell_arguments::observed, &gapcell_arguments::update,
         &gapcell_arguments::recurrent_scale, &gapcell_arguments::stored, &gapcell_arguments::c0, &gapcell_arguments::c,
         &gapcell_arguments::recurrent_bias});
    const bool lstm = layer_.cell == GAPCELL_LSTM;
    if ((place == &gapcell_arguments::observed && layer_.observed_mask) ||
        (place == &gapcell_arguments::update && layer_.update_mask) ||
        (place == &gapcell_arguments::recurrent_scale && layer_.recurrent_scale) ||
        (place == &gapcell_arguments::stored && layer_.store) ||
        ((place == &gapcell_arguments::dt || place == &gapcell_arguments::rates) && decays()) ||
        ((place == &gapcell_arguments::c0 || place == &gapcell_arguments::c) && lstm) ||
        (place == &gapcell_arguments::recurrent_bias && !lstm))
      return false;
    call_.arguments.*place = call_.arguments.hs;
    return true;
  }

  bool decays() const {
    for (const Member &member : batch_.members())
      if (std::strcmp(member.name, "rates") == 0) return true;
    return false;
  }

  // Sizes that fit one another, and no memory: nothing may be allocated by them before the arrays are looked at.
  bool too_much() {
    gapcell_layer &layer = call_.layer;
    layer.samples = random_.one_of<int64_t>({1, int64_t{1} << 30, int64_t{1} << 40});
    layer.steps = int64_t{1} << 40;
    layer.channels = layer.filters = 1 << 24;
    return true;
  }

  bool no_structure() {
    call_.no_layer = random_.chance(0.5);
    call_.no_arguments = !call_.no_layer;
    return true;
  }

  template <class Value>
  bool say(const char *name, Value value) {
    call_.detail = std::string(name) + " " + std::to_string(value);
    return true;
  }

  const gapcell_layer layer_;
  const Batch &batch_;
  Random &random_;
  WrongCall call_;
};

}  // namespace

WrongCall draw_wrong(const gapcell_layer &layer, const Batch &batch, Random &random) {
  return Wrong(layer, batch, random).draw();
}

void check_refused(const Library &library, const WrongCall &wrong, Random &random) {
  const auto call = wrong.backward ? library.backward : library.forward;
  const auto *layer = wrong.no_layer ? nullptr : &wrong.layer;
  const auto *arguments = wrong.no_arguments ? nullptr : &wrong.arguments;
  const uint64_t room = static_cast<uint64_t>(random.one_of({0, 1, 2, 40, 500}));
  const Array text(room, 0);
  const int error = call(layer, arguments, room ? text.as<char>() : nullptr, room);
  const std::string wanted = "a call with a wrong thing (" + wrong.kind + ": " + wrong.detail + ")";
  if (error == GAPCELL_OK) throw std::runtime_error(wanted + " was not refused");
  if (!text.intact()) throw std::runtime_error(wanted + " had a text beyond its room");
  if (room && !std::memchr(text.as<char>(), 0, room)) throw std::runtime_error(wanted + " had a text without an end");
  if (room > 1 && text.as<char>()[0] == 0) throw std::runtime_error(wanted + " was refused without a text");
}
