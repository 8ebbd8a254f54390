"""The recurrence over time, with a backward pass that keeps little.

Differentiated as it stands, a scan keeps every gate of every step, and reads it back from memory. Here the backward
pass has the state before each step, computes the gates again, and sums the weights' gradients as it goes back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from gapcell import cell, masks, native
from gapcell.jax.convolution import (
    CPU,
    FORMS,
    Convolve,
    Form,
    Parameters,
    PreActivations,
    Weights,
    pre_activations,
    prepare,
)
from gapcell.jax.reverse_only import reverse_only
from gapcell.spec import Spec

__all__ = ["FEW", "OPERATIONS", "How", "Inputs", "Plan", "over_the_same_mesh_axes", "run", "run_samples_first"]

State = cell.State
FEW = 2**23  # bytes that stay in a CPU's cache: reading them back is cheaper than computing them again


OPERATIONS = cell.Operations(lax.logistic, lax.tanh, jnp.where, partial(jnp.split, axis=-1))


def _there_is_a_kernel() -> bool:
    return native.active().name != "off"


@dataclass(frozen=True)
class How:
    """How to compute, whatever the layer.

    Attributes:
        vjp: "lean" for the backward pass of this module, "plain" for JAX's own.
        convolution: a key of `FORMS`; None leaves it to the platform that the code is compiled for.
        operations: of one step.
        kernel: whether the compiled kernel may compute what it can; False where there is none, or it is switched off.
    """

    vjp: Literal["lean", "plain"] = "lean"
    convolution: Literal["matmul", "xla"] | None = None
    operations: cell.Operations = OPERATIONS
    kernel: bool = field(default_factory=_there_is_a_kernel)


@dataclass(frozen=True)
class Plan:
    """What is known before any value: one layer and direction, and how to compute it."""

    spec: Spec
    how: How


class Inputs(NamedTuple):
    """What a recurrence reads, steps first.

    Attributes:
        parameters: of this layer and direction.
        x: (T, N, *S, C) x~ of eq. (2).
        state: (h, c) or (h,), each (N, *S', F).
        update: u of eq. (5), bool, (T, N, *S', 1) or with axes of size 1; None: all True.
        dropout: scale on h_(t-1) inside eq. (6), (N, *1, F); None: none.
        elapsed: (T, N) the time since the step before, float32 or wider; None: the state does not decay.
    """

    parameters: Parameters
    x: Array
    state: State
    update: Array | None
    dropout: Array | None
    elapsed: Array | None = None


def run(plan: Plan, inputs: Inputs) -> tuple[Array, State]:
    """The states after every step, hs (T, N, *S', F), and the last state."""
    if inputs.x.shape[0] == 0:
        return jnp.zeros((0, *inputs.state[0].shape), inputs.state[0].dtype), inputs.state
    inputs = over_the_same_mesh_axes(inputs)
    if plan.how.vjp == "plain":
        return _on_platform(plan, _states_plain, inputs)
    return _lean(plan, reverse_only(inputs))


def run_samples_first(plan: Plan, hold: bool, inputs: Inputs) -> tuple[Array, State]:
    """The output and the last state of inputs with the axes (N, T, ...) in the place of (T, N, ...).

    Args:
        plan: as for `run`.
        hold: what the output has where the state does not step: True: h_t, False: 0.
        inputs: x (N, T, *S, C); update (N, T) or (N, T, *S'); elapsed (N, T).

    Returns:
        y (N, T, *S', F), and the last state.
    """
    update = inputs.update
    if update is not None:
        update = masks.expand(update, inputs.x.ndim).swapaxes(0, 1)
    elapsed = None if inputs.elapsed is None else inputs.elapsed.swapaxes(0, 1)
    hs, last = run(plan, inputs._replace(x=inputs.x.swapaxes(0, 1), update=update, elapsed=elapsed))
    if update is not None and not hold:
        hs = jnp.where(update, hs, 0)
    return hs.swapaxes(0, 1), last


def over_the_same_mesh_axes(inputs: Inputs) -> Inputs:
    """Under jax.shard_map a scan's carry must vary over the axes of the mesh that x varies over, as zeros do not."""
    axes = frozenset[str]().union(*(jax.typeof(leaf).mat.varying for leaf in jax.tree.leaves(inputs)))

    def cast(leaf: Array) -> Array:
        missing = tuple(sorted(axes - jax.typeof(leaf).mat.varying))
        return lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, inputs)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _lean(plan: Plan, inputs: Inputs) -> tuple[Array, State]:
    return _on_platform(plan, _states_after, inputs)


def _forward(plan: Plan, inputs: Inputs) -> tuple[tuple[Array, State], tuple[Any, ...]]:
    befores, kept, last = _on_platform(plan, _states_before, inputs)
    return (jnp.concatenate([befores[0][1:], last[0][None]]), last), (inputs, befores, kept)


def _backward(plan: Plan, residuals: tuple[Any, ...], gradients: tuple[Array, State]) -> tuple[Inputs]:
    parameters, dx, dstate = _on_platform(plan, _gradients, *residuals, *gradients)
    return (Inputs(parameters, dx, dstate, None, None),)


_lean.defvjp(_forward, _backward)


def _on_platform(plan: Plan, function: Callable[..., Any], *arrays: Any) -> Any:
    """The function with the form of convolution that the caller, or else the platform, decides for."""
    if plan.how.convolution is not None:
        return function(plan, FORMS[plan.how.convolution], *arrays)
    cpu, default = (partial(function, plan, form) for form in (CPU, FORMS["xla"]))
    return lax.platform_dependent(*arrays, cpu=cpu, default=default)


def _states_plain(plan: Plan, form: Form, inputs: Inputs) -> tuple[Array, State]:
    last, hs = _scan(plan, form.linear, inputs, lambda before, z, after: after[0])
    return hs, last


def _states_after(plan: Plan, form: Form, inputs: Inputs) -> tuple[Array, State]:
    return _states_plain(plan, Form(form.value, form.value), inputs)


def _states_before(plan: Plan, form: Form, inputs: Inputs) -> tuple[State, tuple[PreActivations, ...] | None, State]:
    """The states before every step, the pre-activations of every step if they are few, and the last state."""
    h = inputs.state[0]
    blocks = plan.spec.gates * (1 if plan.spec.cell == "lstm" else 2)
    size = inputs.x.shape[0] * h.size * h.dtype.itemsize * blocks
    few = isinstance(size, int) and size <= FEW  # an exporter's symbolic size is not compared
    last, (befores, kept) = _scan(plan, form.value, inputs, lambda before, z, after: (before, z if few else None))
    return befores, kept, last


def _scan(
    plan: Plan, convolve: Convolve, inputs: Inputs, keep: Callable[[State, PreActivations, State], Any]
) -> tuple[State, Any]:
    weights = _prepare(plan, inputs.state, inputs.parameters)

    def body(before: State, here: tuple[Array, Array | None, Array | None]) -> tuple[State, Any]:
        x, update, elapsed = here
        decayed = _decayed(elapsed, weights.decay, before)
        z = _pre_activations(plan, convolve, inputs.dropout, weights, x, decayed[0])
        after = _activate(plan, update, z, decayed)
        return after, keep(before, z, after)

    return lax.scan(body, inputs.state, (inputs.x, inputs.update, inputs.elapsed))


def _gradients(
    plan: Plan,
    form: Form,
    inputs: Inputs,
    befores: State,
    kept: PreActivations | None,
    dhs: Array,
    dlast: State,
) -> tuple[Parameters, Array, State]:
    """The gradients of parameters, x and initial state from those of hs and the last state."""
    weights, pull_weights = jax.vjp(partial(_prepare, plan, inputs.state), inputs.parameters)

    def body(carried: tuple[State, Weights], here: Any) -> tuple[tuple[State, Weights], Array]:
        (dh, *dc), sums = carried
        x, update, elapsed, before, z, dh_out = here
        before, pull_decayed = jax.vjp(partial(_decayed, elapsed), weights.decay, before)
        if z is None:
            z = _pre_activations(plan, form.value, inputs.dropout, weights, x, before[0])
        _, pull = jax.vjp(partial(_activate, plan, update), z, before)
        # The value of this form is not used, and so not computed.
        _, pull_linear = jax.vjp(partial(_pre_activations, plan, form.linear, inputs.dropout), weights, x, before[0])
        dz, (dh_before, *dc_before) = pull((dh + dh_out, *dc))
        share, dx, dh_entered = pull_linear(dz)
        ddecay, dbefore = pull_decayed((dh_before + dh_entered, *dc_before))
        share = share._replace(decay=ddecay)
        return (dbefore, jax.tree.map(jnp.add, sums, share)), dx

    nothing = jax.tree.map(jnp.zeros_like, weights)
    steps = (inputs.x, inputs.update, inputs.elapsed, befores, kept, dhs)
    (dstate, sums), dx = lax.scan(body, (dlast, nothing), steps, reverse=True)
    return *pull_weights(sums), dx, dstate


def _prepare(plan: Plan, state: State, parameters: Parameters) -> Weights:
    return prepare(plan.spec, parameters, state[0].shape[1:-1])


def _decayed(elapsed: Array | None, rates: Array | None, state: State) -> State:
    """Eq. (24)."""
    return state if elapsed is None else tuple(cell.decayed(part, rates, elapsed) for part in state)


def _pre_activations(
    plan: Plan, convolve: Convolve, dropout: Array | None, weights: Weights, x: Array, h: Array
) -> PreActivations:
    return pre_activations(plan.spec, convolve, weights, x, h if dropout is None else h * dropout)


def _activate(plan: Plan, update: Array | None, z: PreActivations, before: State) -> State:
    a, r = z if len(z) == 2 else (*z, jnp.zeros((), z[0].dtype))
    wide = tuple(part.astype(a.dtype) for part in before)
    after = cell.step(plan.how.operations, plan.spec, a, r, wide, update=update)
    return tuple(new.astype(old.dtype) for new, old in zip(after, before, strict=True))
