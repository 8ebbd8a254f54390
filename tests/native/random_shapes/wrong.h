// Calls with one thing wrong, which the library must refuse.
#pragma once

#include <string>

#include "arrays.h"
#include "library.h"

struct WrongCall {
  std::string kind;    // what a summary counts by
  std::string detail;  // what exactly is wrong
  gapcell_layer layer;
  gapcell_arguments arguments;
  bool no_layer = false, no_arguments = false;
  bool backward = false;
};

// One thing of a good call changed; `batch` has what the layer stores.
WrongCall draw_wrong(const gapcell_layer &layer, const Batch &batch, Random &random);

// Throws std::runtime_error unless it is refused with a text, whatever room the text has.
void check_refused(const Library &library, const WrongCall &wrong, Random &random);
