"""The recurrence on the compiled CPU kernel: what it serves, and its derivative."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from gapcell.cell import State
from gapcell.jax import primitives, recurrence
from gapcell.jax.convolution import Parameters
from gapcell.jax.operands import Cotangents, Results, absent, from_inputs
from gapcell.jax.primitives import Call, Store
from gapcell.jax.recurrence import FEW, OPERATIONS, Inputs, Plan
from gapcell.jax.reverse_only import reverse_only

__all__ = ["run", "serves"]

_DTYPES = ("float32", "bfloat16")


def serves(plan: Plan, inputs: Inputs) -> bool:
    """Whether the kernel computes this; `inputs` have their samples first."""
    how, x = plan.how, inputs.x
    return (
        how.kernel
        and how.vjp == "lean"
        and how.convolution is None
        and how.operations == OPERATIONS
        and all(isinstance(size, int) for size in x.shape)  # an exporter's sizes may be symbols
        and x.shape[0] > 0
        and x.shape[1] > 0
        and all(part.dtype.name in _DTYPES for part in jax.tree.leaves((x, inputs.parameters, inputs.state)))
        and len({part.dtype for part in jax.tree.leaves(inputs.parameters)}) == 1
        and not any(_explicitly_sharded(leaf) for leaf in jax.tree.leaves(inputs))
        and jax.default_backend() == "cpu"  # on others the pure form's backward pass need not run forward once more
    )


def run(plan: Plan, hold: bool, inputs: Inputs) -> tuple[Array, State]:
    """As `recurrence.run_samples_first`; y is float32 whatever the state is."""
    return _layer(plan, hold, reverse_only(recurrence.over_the_same_mesh_axes(inputs)))


def _explicitly_sharded(leaf: Array) -> bool:
    return any(axis is not None for axis in jax.typeof(leaf).sharding.spec)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _layer(plan: Plan, hold: bool, inputs: Inputs) -> tuple[Array, State]:
    results = primitives.forward(Call(plan, hold, "none"), from_inputs(inputs))
    return results.hs, _last(inputs, results)


def _forward(plan: Plan, hold: bool, given: Inputs) -> tuple[tuple[Array, State], tuple[Any, ...]]:
    """`given` has each array with whether it is differentiated; that of x is kept as a tree of no leaves, or None."""
    inputs: Inputs = jax.tree.map(lambda leaf: leaf.value, given)
    x_moves = () if cast(Any, given.x).perturbed else None
    results = primitives.forward(Call(plan, hold, _store(inputs)), from_inputs(inputs))
    return (results.hs, _last(inputs, results)), (inputs, results.hs, results.stored, x_moves)


def _backward(
    plan: Plan, hold: bool, kept: tuple[Any, ...], gradients: tuple[Array | SymbolicZero, State]
) -> tuple[Inputs]:
    inputs, hs, stored, x_moves = kept
    dhs, (dh, *dc) = jax.tree.map(_arriving, gradients, is_leaf=_is_zero)
    cotangents = Cotangents(hs, stored, dhs, dh, dc[0] if dc else absent())
    call = Call(plan, hold, _store(inputs), x_moves is not None)
    found = primitives.backward(call, from_inputs(inputs), cotangents)
    weights = inputs.parameters
    parameters = Parameters(
        found.dkernel.astype(weights.kernel.dtype),
        found.drecurrent_kernel.astype(weights.recurrent_kernel.dtype),
        None if weights.bias is None else found.dbias.astype(weights.bias.dtype),
        None if weights.recurrent_bias is None else found.drecurrent_bias.astype(weights.recurrent_bias.dtype),
        None if weights.decay is None else found.drates.astype(weights.decay.dtype),
    )
    state = zip(inputs.state, (found.dh0, found.dc0), strict=False)  # the GRU has no c
    dstate = tuple(gradient.astype(part.dtype) for part, gradient in state)
    dx = None if x_moves is None else found.dx.astype(inputs.x.dtype)
    return (Inputs(parameters, cast(Any, dx), dstate, None, None),)


# With it JAX says what is not differentiated: the gradient of x is dear where C is small.
_layer.defvjp(_forward, _backward, symbolic_zeros=True)


def _is_zero(cotangent: Any) -> bool:
    return isinstance(cotangent, SymbolicZero)


def _arriving(cotangent: Array | SymbolicZero) -> Array:
    if isinstance(cotangent, SymbolicZero):
        return jnp.zeros(cotangent.shape, jnp.float32)
    return cotangent.astype(jnp.float32)


def _last(inputs: Inputs, results: Results) -> State:
    parts = zip(inputs.state, (results.h, results.c), strict=False)
    return tuple(part.astype(given.dtype) for given, part in parts)


def _store(inputs: Inputs) -> Store:
    """As the pure form: gates are kept if they are few, and else computed again."""
    size = 4 * 4 * inputs.x.shape[1] * inputs.state[0].size  # of the GRU too: r, z and both parts of n
    return "fp32" if size <= FEW else "recompute"
