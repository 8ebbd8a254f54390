"""The pre-activations of eq. (6), as matrix products or as XLA's convolutions.

XLA computes the gradient of a convolution on a CPU tens of times slower than that of a matrix product over taps copied
side by side; forwards, over one axis, its convolution is the faster of the two. On other devices it is fast both ways.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from gapcell.spec import Spec

__all__ = ["CPU", "FORMS", "Convolve", "Form", "Parameters", "PreActivations", "Weights", "pre_activations", "prepare"]

PreActivations = tuple[Array, ...]  # (a + r,) for the LSTM, (a, r) for the GRU, r with bhn; each (N, *S', gates*F)
Sizes = tuple[int, ...]
Convolve = Callable[[Array, Array, Sizes, Sizes], Array]  # padded (N, *S, in), kernel (*k, in, out), stride, dilation


class Parameters(NamedTuple):
    """One layer and direction as `Spec.parameter_shapes` says; biases and decay may be None."""

    kernel: Array
    recurrent_kernel: Array
    bias: Array | None = None
    recurrent_bias: Array | None = None
    decay: Array | None = None


class Weights(NamedTuple):
    """Parameters as the loop wants them, in the type that gradients are summed in.

    Biases are spread over the sites: their gradient is then a sum over rows, which XLA-CPU vectorises, and the sum over
    sites is taken once, behind the loop.

    Attributes:
        kernels: of one convolution over the channels of x and h together, (*k, C + F, gates*F), or of two.
        biases: b and, for the GRU, bhn in its block of r; each (*S', gates*F), or None.
        decay: rates of eq. (24), (F,), or None.
    """

    kernels: tuple[Array, ...]
    biases: tuple[Array | None, ...]
    decay: Array | None


class Form(NamedTuple):
    """How a convolution is computed: `value` where only its value is wanted, `linear` where it is differentiated."""

    value: Convolve
    linear: Convolve


def prepare(spec: Spec, parameters: Parameters, sites: Sizes) -> Weights:
    """Arrange the parameters once for all steps; `sites` are those of the state."""
    kernels = tuple(_wide(kernel) for kernel in parameters[:2])
    biases = [parameters.bias]
    if spec.cell == "gru":
        bhn = parameters.recurrent_bias
        biases.append(None if bhn is None else jnp.pad(bhn, (2 * spec.filters, 0)))
    spread = (None if bias is None else jnp.broadcast_to(_wide(bias), (*sites, *bias.shape)) for bias in biases)
    decay = None if parameters.decay is None else _wide(parameters.decay)
    return Weights((jnp.concatenate(kernels, axis=-2),) if _joint(spec) else kernels, tuple(spread), decay)


def pre_activations(spec: Spec, convolve: Convolve, weights: Weights, x: Array, h: Array) -> PreActivations:
    """Eq. (6) from x (N, *S, C) and h (N, *S', F), which dropout has passed; convolved in x's dtype."""
    once = (1,) * spec.rank
    padded = [_pad(x, spec.input_padding(x.shape[1:-1])), _enter(spec, h).astype(x.dtype)]
    if _joint(spec):
        results = [convolve(jnp.concatenate(padded, axis=-1), weights.kernels[0], once, once)]
    else:
        of_input, of_state = weights.kernels
        results = [
            convolve(padded[0], of_input, spec.sizes("stride"), spec.sizes("dilation")),
            convolve(padded[1], of_state, once, once),
        ]
    if spec.cell == "lstm":
        results = [sum(results[1:], results[0])]
    pairs = zip(results, weights.biases, strict=True)
    return tuple(result if bias is None else result + bias for result, bias in pairs)


def _joint(spec: Spec) -> bool:
    """Whether both convolutions are one over the channels of x and h together."""
    once = (1,) * spec.rank
    alike = spec.sizes("kernel_size") == spec.sizes("recurrent_kernel_size")
    return spec.cell == "lstm" and alike and spec.sizes("stride") == once and spec.sizes("dilation") == once


def _wide(parameter: Array) -> Array:
    """At least float32: a sum of many gradients in bfloat16 would stop growing."""
    return parameter.astype(jnp.promote_types(parameter.dtype, jnp.float32))


def _enter(spec: Spec, h: Array) -> Array:
    """h_(t-1) with what the recurrent convolution reads beyond its sites: zeros, or by eq. (17) the previous window."""
    padding = spec.recurrent_padding()
    if spec.window is None:
        return _pad(h, padding)
    ((left, right),) = padding
    wrapped = min(left, spec.window)
    return _pad(jnp.concatenate([h[:, spec.window - wrapped :], h], axis=1), ((left - wrapped, right),))


def _pad(x: Array, padding: Sequence[tuple[int, int]]) -> Array:
    """Zeros (negative: a cut) around the sites of (N, *S, channels)."""
    if not any(amount for pair in padding for amount in pair):
        return x
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*pair, 0) for pair in padding), (0, 0, 0)])


def _by_product(padded: Array, kernel: Array, stride: Sizes, dilation: Sizes) -> Array:
    """The taps side by side, and one matrix product."""
    size, channels, width = kernel.shape[:-2], kernel.shape[-2], kernel.shape[-1]
    spans = [d * (k - 1) + 1 for k, d in zip(size, dilation, strict=True)]
    geometry = zip(padded.shape[1:-1], spans, stride, strict=True)
    sites = [(length - span) // step + 1 for length, span, step in geometry]
    taps = []
    for tap in itertools.product(*map(range, size)):
        first = [t * d for t, d in zip(tap, dilation, strict=True)]
        stop = [f + (count - 1) * step + 1 for f, count, step in zip(first, sites, stride, strict=True)]
        taps.append(lax.slice(padded, (0, *first, 0), (padded.shape[0], *stop, channels), (1, *stride, 1)))
    side_by_side = jnp.concatenate(taps, axis=-1)
    rows = side_by_side.reshape(math.prod(side_by_side.shape[:-1]), side_by_side.shape[-1])
    flat = kernel.reshape(rows.shape[-1], width).astype(rows.dtype)
    return jnp.dot(rows, flat, preferred_element_type=kernel.dtype).reshape((*side_by_side.shape[:-1], width))


def _by_xla(padded: Array, kernel: Array, stride: Sizes, dilation: Sizes) -> Array:
    axes = "DHW"[3 - len(stride) :]
    result = lax.conv_general_dilated(
        padded,
        kernel.astype(padded.dtype),
        window_strides=stride,
        padding="VALID",
        rhs_dilation=dilation,
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
    )
    return result.astype(kernel.dtype)


def _faster_on_cpu(padded: Array, kernel: Array, stride: Sizes, dilation: Sizes) -> Array:
    """XLA-CPU's convolution is the faster one over one axis, in float32 and without dilation."""
    fast = padded.dtype == jnp.float32 and dilation == (1,)
    return (_by_xla if fast else _by_product)(padded, kernel, stride, dilation)


CPU = Form(_faster_on_cpu, _by_product)
FORMS = {"matmul": Form(_by_product, _by_product), "xla": Form(_by_xla, _by_xla)}
