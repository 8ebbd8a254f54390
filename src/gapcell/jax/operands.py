"""The arrays that the compiled kernel reads and fills, and how they differ from a recurrence's own.

The names, their order and the shapes are those of `native.Layer` and of native/xla.cpp. Samples come first, sites are
followed by channels, states are float32, and an array without elements stands for an absent one.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from gapcell.jax.convolution import Parameters
from gapcell.jax.recurrence import Inputs

__all__ = ["Cotangents", "Gradients", "Operands", "Results", "absent", "from_inputs", "to_inputs"]


class Operands(NamedTuple):
    """What forward and backward read."""

    x: Array
    update: Array
    recurrent_scale: Array
    kernel: Array
    recurrent_kernel: Array
    bias: Array
    recurrent_bias: Array
    h0: Array
    c0: Array
    dt: Array
    rates: Array


class Results(NamedTuple):
    """What forward fills; `stored` is bytes for backward."""

    hs: Array
    h: Array
    c: Array
    stored: Array


class Cotangents(NamedTuple):
    """What backward reads beside the operands."""

    hs: Array
    stored: Array
    dhs: Array
    dh: Array
    dc: Array


class Gradients(NamedTuple):
    """What backward fills, in float32."""

    dx: Array
    dkernel: Array
    drecurrent_kernel: Array
    dbias: Array
    drecurrent_bias: Array
    dh0: Array
    dc0: Array
    drates: Array


def absent(dtype: Any = jnp.float32) -> Array:
    """Stands for an array that is not there."""
    return jnp.zeros((0,), dtype)


def from_inputs(inputs: Inputs) -> Operands:
    """What the kernel reads of inputs with their samples first."""
    weights = inputs.parameters
    h, *c = (part.astype(jnp.float32) for part in inputs.state)
    scale = inputs.dropout
    if scale is not None:
        scale = scale.astype(jnp.float32)
        for_all_sites = math.prod(scale.shape[1:-1]) == 1
        scale = scale.reshape(scale.shape[0], scale.shape[-1]) if for_all_sites else jnp.broadcast_to(scale, h.shape)
    return Operands(
        x=inputs.x,
        update=absent(bool) if inputs.update is None else inputs.update,
        recurrent_scale=absent() if scale is None else scale,
        kernel=weights.kernel,
        recurrent_kernel=weights.recurrent_kernel,
        bias=absent() if weights.bias is None else weights.bias,
        recurrent_bias=absent() if weights.recurrent_bias is None else weights.recurrent_bias,
        h0=h,
        c0=c[0] if c else absent(),
        dt=absent() if inputs.elapsed is None else inputs.elapsed,
        rates=absent() if weights.decay is None else weights.decay.astype(jnp.float32),
    )


def to_inputs(operands: Operands) -> Inputs:
    """What `from_inputs` was given, but the state in float32."""
    x, scale = operands.x, _present(operands.recurrent_scale)
    if scale is not None and scale.ndim == 2:
        scale = scale.reshape(scale.shape[0], *(1,) * (x.ndim - 3), scale.shape[1])
    return Inputs(
        parameters=Parameters(
            operands.kernel,
            operands.recurrent_kernel,
            _present(operands.bias),
            _present(operands.recurrent_bias),
            _present(operands.rates),
        ),
        x=x,
        state=(operands.h0, operands.c0) if operands.c0.size else (operands.h0,),
        update=_present(operands.update),
        dropout=scale,
        elapsed=_present(operands.dt),
    )


def _present(array: Array) -> Array | None:
    return array if array.size else None
