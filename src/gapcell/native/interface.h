/* The C interface of gapcell's CPU kernel: one layer in one direction over a batch, forward and backward.
 *
 * Plain C: no Python, NumPy or framework types, so that anything that can call C can use it. Names and equation numbers
 * are those of docs/semantics.md. All arrays are contiguous, aligned to their values' size, and channels last:
 *
 *   N samples, T steps, S input sites, P output sites (S', all site axes flattened), C input channels, F filters,
 *   G = gates: 4 for the LSTM (i, f, g, o), 3 for the GRU (r, z, n).
 *
 * The caller says how large each buffer is, and a call whose buffers do not fit its sizes is refused with a text.
 * Which site reads which (the tap tables) is worked out here, from sizes, so that no caller can pass a wrong one.
 */
#ifndef GAPCELL_INTERFACE_H
#define GAPCELL_INTERFACE_H

#include <stdint.h>

#if defined(_WIN32)
#define GAPCELL_API __declspec(dllexport)
#else
#define GAPCELL_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Goes up by one with every change of this file that an old caller would not survive. */
#define GAPCELL_INTERFACE_VERSION 3

enum gapcell_error { GAPCELL_OK = 0, GAPCELL_INVALID = 1, GAPCELL_OUT_OF_MEMORY = 2, GAPCELL_UNAVAILABLE = 3 };
enum gapcell_cell { GAPCELL_LSTM = 0, GAPCELL_GRU = 1 };
enum gapcell_type { GAPCELL_FP32 = 0, GAPCELL_BF16 = 1 };

/* What a mask covers. `observed` is e of eq. (1), `update` is u of eq. (5); bytes, 0 is False. */
enum gapcell_mask { GAPCELL_NO_MASK = 0, GAPCELL_STEPS = 1, GAPCELL_SITES = 2, GAPCELL_ELEMENTS = 3 };

/* What forward writes to hs where u is False, eq. (10). */
enum gapcell_held { GAPCELL_HELD_ZERO = 0, GAPCELL_HELD_STATE = 1 };

/* What forward stores for backward beside hs. RECOMPUTE keeps c alone and computes the gates again. */
enum gapcell_store {
  GAPCELL_STORE_NONE = 0,
  GAPCELL_STORE_FP32 = 1,
  GAPCELL_STORE_BF16 = 2,
  GAPCELL_STORE_RECOMPUTE = 3
};

/* Memory of the caller's; data NULL means absent. */
typedef struct {
  void *data;
  uint64_t bytes;
} gapcell_buffer;

/* What the layer is and how large the batch is. Axes beyond `rank` are ignored. */
typedef struct {
  uint32_t version;      /* GAPCELL_INTERFACE_VERSION */
  int32_t cell;          /* gapcell_cell */
  int32_t rank;          /* site axes, 1 to 3 */
  int32_t x_type;        /* gapcell_type of x */
  int32_t weight_type;   /* gapcell_type of kernels and biases; sums and states are fp32 always */
  int32_t observed_mask; /* gapcell_mask: (N,T), (N,T,S) or (N,T,S,C) */
  int32_t update_mask;   /* gapcell_mask: (N,T) or (N,T,P) */
  int32_t
      recurrent_scale; /* gapcell_mask: GAPCELL_STEPS (N,F), GAPCELL_SITES (N,P,F): dropout on h_(t-1) inside eq. (6) */
  int32_t held_output; /* gapcell_held */
  int32_t store;       /* gapcell_store */
  int32_t reverse;     /* 1: step T-1 first, eq. (13); arrays keep their order */
  int32_t wraps;       /* 1: left of site 0 the recurrent convolution reads the window's end, eq. (17) */
  int32_t threads;     /* at most so many are used; each owns whole sequences */
  int32_t reserved;    /* 0 */
  int64_t samples, steps, channels, filters;
  int64_t sites[3], output_sites[3];
  int64_t kernel_size[3], stride[3], dilation[3], left[3]; /* of the input convolution, eq. (12) */
  int64_t recurrent_kernel_size[3], recurrent_left[3];     /* of the recurrent one: stride 1, dilation 1 */
} gapcell_layer;

/* Weights packed once for many calls. They are a copy: later changes of the arrays do not show. */
typedef struct gapcell_weights gapcell_weights;

/* A way to run on the caller's threads: `run(data)` once on each of `threads` threads, and back when all are done; the
 * signature of GOMP_parallel. Fewer runs do no harm, but there must be at least one. */
typedef void (*gapcell_parallel)(void (*run)(void *), void *data, unsigned threads, unsigned flags);

/* Everything a call reads and writes. Types are fp32 unless the layer says otherwise; "or absent" may be NULL. */
typedef struct {
  /* read by forward and backward */
  gapcell_buffer x;                /* (N,T,S,C) of x_type */
  gapcell_buffer observed;         /* bytes, or absent; what is False is never read as a number */
  gapcell_buffer update;           /* bytes, or absent */
  gapcell_buffer recurrent_scale;  /* or absent */
  gapcell_buffer kernel;           /* (*k,C,G*F) of weight_type; with `weights` forward does not need these four */
  gapcell_buffer recurrent_kernel; /* (*k,F,G*F) */
  gapcell_buffer bias;             /* (G*F,) or absent */
  gapcell_buffer recurrent_bias;   /* (F,) bhn of eq. (8), GRU only, or absent */
  gapcell_buffer h0, c0;           /* (N,P,F) or absent: zeros */
  gapcell_buffer dt, rates;        /* gap="decay", eq. (24): (N,T) in the arrays' order, and (F,); or both absent */
  const gapcell_weights *weights;  /* or NULL */
  gapcell_parallel parallel;       /* or NULL: the library's own threads, which sleep between calls */
  /* written by forward; hs and stored are read by backward */
  gapcell_buffer hs;     /* (N,T,P,F) h_t where u is True, elsewhere as held_output says */
  gapcell_buffer stored; /* at least gapcell_stored_bytes, 64-byte aligned; absent with GAPCELL_STORE_NONE */
  gapcell_buffer h, c;   /* (N,P,F) final state; may be absent */
  /* read by backward; absent: zeros */
  gapcell_buffer dhs;    /* as hs; where it was held as zero it is not read */
  gapcell_buffer dh, dc; /* (N,P,F) of the final state */
  /* written by backward, fp32; absent: not wanted */
  gapcell_buffer dx, dh0, dc0, dkernel, drecurrent_kernel, dbias, drecurrent_bias, drates;
} gapcell_arguments;

GAPCELL_API uint32_t gapcell_interface_version(void);

/* The instruction set in use ("avx512", "avx2", "portable"), or "off" if GAPCELL_KERNEL says so; with why. */
GAPCELL_API const char *gapcell_active(void);
GAPCELL_API const char *gapcell_active_reason(void);

/* Chooses an instruction set ("avx512", "avx2", "portable", "off"; "" is the default choice) for the calls to come. */
GAPCELL_API int gapcell_choose(const char *name, char *text, uint64_t text_bytes);

/* Bytes of `stored`; `update` may be absent (all True). Only steps that are computed take room. */
GAPCELL_API int gapcell_stored_bytes(const gapcell_layer *layer, gapcell_buffer update, uint64_t *bytes, char *text,
                                     uint64_t text_bytes);

/* Each returns a gapcell_error; if it is not GAPCELL_OK, `text` says what is wrong. */
GAPCELL_API int gapcell_forward(const gapcell_layer *layer, const gapcell_arguments *arguments, char *text,
                                uint64_t text_bytes);
GAPCELL_API int gapcell_backward(const gapcell_layer *layer, const gapcell_arguments *arguments, char *text,
                                 uint64_t text_bytes);

/* Reads kernel, recurrent_kernel, bias and recurrent_bias of `arguments`, and of `layer` what their shapes depend on.
 */
GAPCELL_API int gapcell_weights_create(const gapcell_layer *layer, const gapcell_arguments *arguments,
                                       gapcell_weights **weights, char *text, uint64_t text_bytes);
GAPCELL_API void gapcell_weights_free(gapcell_weights *weights);

/* FLOP/s that one thread reaches in fp32 fused multiply-adds alone, with the active instruction set; 0 if it is off. */
GAPCELL_API double gapcell_peak_flops(double seconds);

/* Memory the library keeps for its next calls, and a way to give it back. */
GAPCELL_API uint64_t gapcell_idle_bytes(void);
GAPCELL_API void gapcell_release_idle(void);

#ifdef __cplusplus
}
#endif
#endif
