// The library under test, opened by its path: the very file that an install has, or one built with sanitizers.
#pragma once

#include <dlfcn.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "interface.h"

struct Library {
  decltype(&gapcell_choose) choose;
  decltype(&gapcell_stored_bytes) stored_bytes;
  decltype(&gapcell_forward) forward;
  decltype(&gapcell_backward) backward;
  decltype(&gapcell_weights_create) weights_create;
  decltype(&gapcell_weights_free) weights_free;
  decltype(&gapcell_peak_flops) peak_flops;
  decltype(&gapcell_idle_bytes) idle_bytes;
  decltype(&gapcell_release_idle) release_idle;
  std::vector<std::string> kernels;  // that this machine can run

  explicit Library(const char *path) {
    void *opened = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!opened) throw std::runtime_error(dlerror());
    find(opened, "gapcell_choose", choose);
    find(opened, "gapcell_stored_bytes", stored_bytes);
    find(opened, "gapcell_forward", forward);
    find(opened, "gapcell_backward", backward);
    find(opened, "gapcell_weights_create", weights_create);
    find(opened, "gapcell_weights_free", weights_free);
    find(opened, "gapcell_peak_flops", peak_flops);
    find(opened, "gapcell_idle_bytes", idle_bytes);
    find(opened, "gapcell_release_idle", release_idle);
    for (const char *name : {"portable", "avx2", "avx512"})
      if (choose(name, nullptr, 0) == GAPCELL_OK) kernels.push_back(name);
  }

 private:
  template <class Function>
  static void find(void *opened, const char *name, Function &function) {
    void *found = dlsym(opened, name);
    if (!found) throw std::runtime_error(std::string(name) + " is not in the library");
    function = reinterpret_cast<Function>(found);
  }
};
