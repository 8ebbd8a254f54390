#include "shape.h"

#include <cstring>
#include <sstream>
#include <stdexcept>

#include "arrays.h"
#include "starve.h"
#include "wrong.h"

namespace {

void demand(bool holds, const std::string &otherwise) {
  if (!holds) throw std::runtime_error(otherwise);
}

class Shape {
 public:
  Shape(const Library &library, const Options &options, Random &random, Counts &counts)
      : library_(library),
        options_(options),
        random_(random),
        counts_(counts),
        layer_(draw_layer(random, options.draw)),
        batch_(layer_, random) {}

  const gapcell_layer &layer() const { return layer_; }

  void check() {
    choose_kernel();
    make_stored();
    for (int i = 0; i < 3; ++i) check_wrong();
    forward();
    if (random_.chance(0.3)) packed();
    choose_kernel();  // what one instruction set has stored another one may read
    backward();
    if (options_.alone && random_.chance(0.1)) starve();
    ++counts_.shapes;
    counts_.empty += layer_.samples * layer_.steps == 0;
  }

 private:
  using Call = decltype(Library::forward);

  void choose_kernel() {
    if (!options_.alone) return;
    const std::string &name = library_.kernels[random_.between(0, library_.kernels.size() - 1)];
    demand(library_.choose(name.c_str(), nullptr, 0) == GAPCELL_OK, name + " was there before");
    ++counts_.kernels[name];
  }

  void make_stored() {
    if (layer_.store == GAPCELL_STORE_NONE) return;
    const gapcell_arguments arguments = batch_.arguments();
    uint64_t bytes = 0;
    char text[200];
    demand(library_.stored_bytes(&layer_, arguments.update, &bytes, text, sizeof text) == GAPCELL_OK, text);
    batch_.make_stored(bytes);
  }

  void check_wrong() {
    const WrongCall wrong = draw_wrong(layer_, batch_, random_);
    check_refused(library_, wrong, random_);
    batch_.check_untouched();
    ++counts_.refused[wrong.kind];
  }

  void run(Call call, const char *name, const gapcell_arguments &arguments) {
    char text[200];
    const int error = call(&layer_, &arguments, text, sizeof text);
    demand(error == GAPCELL_OK, std::string(name) + " was refused: " + text);
  }

  void forward() {
    run(library_.forward, "forward", batch_.arguments());
    batch_.check_written(Writer::kForward);
    if (layer_.store != GAPCELL_STORE_NONE) batch_["stored"].seal();
    batch_.check_rest();
    ++counts_.forward;
  }

  // The same bits, whatever instruction set is chosen after the weights were packed for this one.
  void packed() {
    gapcell_arguments arguments = batch_.arguments();
    gapcell_weights *weights = nullptr;
    char text[200];
    const int error = library_.weights_create(&layer_, &arguments, &weights, text, sizeof text);
    demand(error == GAPCELL_OK && weights, std::string("weights were refused: ") + text);
    choose_kernel();
    const Array hs(batch_["hs"].bytes(), 4);
    arguments.hs = hs.buffer();
    arguments.kernel = arguments.recurrent_kernel = arguments.bias = arguments.recurrent_bias = {nullptr, 0};
    arguments.weights = weights;
    run(library_.forward, "forward with packed weights", arguments);
    gapcell_layer other = layer_;
    ++other.filters;
    demand(library_.forward(&other, &arguments, nullptr, 0) == GAPCELL_INVALID, "weights of another layer were taken");
    library_.weights_free(weights);
    demand(hs.bytes() == 0 || std::memcmp(hs.as<char>(), batch_["hs"].as<char>(), hs.bytes()) == 0,
           "packed weights give other bits");
    batch_.check_rest();
    ++counts_.packed;
  }

  void backward() {
    if (layer_.store == GAPCELL_STORE_NONE) {
      char text[200];
      const gapcell_arguments arguments = batch_.arguments();
      demand(library_.backward(&layer_, &arguments, text, sizeof text) == GAPCELL_INVALID && *text,
             "backward of what stored nothing was not refused");
      return batch_.check_rest();
    }
    run(library_.backward, "backward", batch_.arguments());
    batch_.check_written(Writer::kBackward);
    batch_.check_rest();
    ++counts_.backward;
  }

  // Whichever allocation is the first to fail, the call says so and leaves nothing behind.
  void starve() {
    for (const Writer writer : {Writer::kForward, Writer::kForwardForBackward, Writer::kBackward}) batch_.clear(writer);
    starve(library_.forward, "forward");
    if (layer_.store != GAPCELL_STORE_NONE) {
      starve(library_.backward, "backward");
      batch_.check_written(Writer::kBackward);
    }
    batch_.check_written(Writer::kForward);
    batch_.check_rest();
  }

  void starve(Call call, const char *name) {
    const gapcell_arguments arguments = batch_.arguments();
    for (int64_t allocations = 0;; allocations += 1 + random_.between(0, allocations / 2)) {
      library_.release_idle();
      char text[200];
      int error;
      {
        const Starve starving(allocations);
        error = call(&layer_, &arguments, text, sizeof text);
      }
      if (error == GAPCELL_OK) return;
      demand(error == GAPCELL_OUT_OF_MEMORY && *text, std::string(name) + " without memory said: " + text);
      ++counts_.out_of_memory;
    }
  }

  const Library &library_;
  const Options &options_;
  Random &random_;
  Counts &counts_;
  const gapcell_layer layer_;
  Batch batch_;
};

}  // namespace

void check_shape(const Library &library, uint64_t seed, uint64_t index, const Options &options, Counts &counts) {
  Random random(seed, index);
  Shape shape(library, options, random, counts);
  try {
    shape.check();
  } catch (const std::runtime_error &error) {
    throw std::runtime_error("shape " + std::to_string(index) + " of seed " + std::to_string(seed) + ": " +
                             error.what() + "\n  " + described(shape.layer()));
  }
}

void Counts::add(const Counts &other) {
  shapes += other.shapes;
  forward += other.forward;
  backward += other.backward;
  packed += other.packed;
  empty += other.empty;
  out_of_memory += other.out_of_memory;
  for (const auto &[kind, count] : other.refused) refused[kind] += count;
  for (const auto &[name, count] : other.kernels) kernels[name] += count;
}

std::string Counts::summary() const {
  std::ostringstream text;
  text << shapes << " shapes (" << empty << " empty), " << forward << " forward, " << backward << " backward, "
       << packed << " with packed weights, " << out_of_memory << " out of memory";
  for (const auto &[name, count] : kernels) text << ", " << name << " " << count;
  text << "; refused:";
  for (const auto &[kind, count] : refused) text << " " << kind << " " << count << ",";
  std::string line = text.str();
  line.pop_back();
  return line;
}
