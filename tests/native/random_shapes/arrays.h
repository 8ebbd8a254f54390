// Every array of a call in memory of its own, of exactly its size.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "interface.h"
#include "layers.h"

// Under AddressSanitizer one byte too far is an error at once. Without it, known bytes lie around the array and are
// looked at afterwards.
class Array {
 public:
  Array() = default;  // absent
  // `start` is where it begins, in bytes behind a multiple of 64: no more may be taken for granted than is asked for.
  Array(uint64_t bytes, uint64_t start);

  gapcell_buffer buffer() const { return {data_, bytes_}; }
  bool present() const { return data_ != nullptr; }
  uint64_t bytes() const { return bytes_; }
  template <class T>
  T *as() const {
    return reinterpret_cast<T *>(data_);
  }

  void clear();  // to bytes that are no number in any type
  bool is_clear() const;
  bool all_finite() const;  // fp32
  bool intact() const;      // nothing around it was written to
  void seal();
  bool unchanged() const;  // since it was sealed, if it was

 private:
  struct Free {
    void operator()(void *memory) const;
  };
  uint64_t sum() const;

  std::unique_ptr<void, Free> memory_;
  unsigned char *data_ = nullptr;
  uint64_t bytes_ = 0, start_ = 0, sum_ = 0;
  bool is_sealed_ = false;
};

enum class Writer { kCaller, kForward, kBackward, kForwardForBackward };

struct Member {
  const char *name;
  gapcell_buffer gapcell_arguments::*place;
  Writer writer;
  bool wanted;  // given whenever the layer has it, not only sometimes
  Array array;
};

// The arrays of one call, random values in those that the caller writes, NaN where a mask says that nothing is read.
class Batch {
 public:
  Batch(const gapcell_layer &layer, Random &random);

  void make_stored(uint64_t bytes);
  gapcell_arguments arguments() const;
  const std::vector<Member> &members() const { return members_; }
  Array &operator[](const char *name);

  // Each throws std::runtime_error with the array's name.
  void clear(Writer writer);
  void check_untouched() const;       // by a call that was refused
  void check_written(Writer writer);  // all of it, with numbers; and then seals it
  void check_rest() const;            // what was sealed, and what lies around the arrays, is as it was

 private:
  Array &add(const char *name, gapcell_buffer gapcell_arguments::*place, Writer writer, double share, int64_t values,
             int64_t value_bytes = 4);
  void add_numbers(const char *name, gapcell_buffer gapcell_arguments::*place, double share, int64_t values, float size,
                   int type = GAPCELL_FP32);
  void add_masks();
  void add_states();
  void add_decay();
  void add_weights();
  void add_results();
  void hide_what_is_masked();

  const gapcell_layer layer_;
  const Sizes sizes_;
  Random &random_;
  std::vector<Member> members_;
};
