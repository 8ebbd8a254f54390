"""The layer on JAX: gapcell.jax's."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
from jax import Array

from gapcell.cell import State
from gapcell.jax import stack
from gapcell.jax.convolution import Parameters
from gapcell.jax.dropout import Scales
from gapcell.jax.recurrence import OPERATIONS, How
from gapcell.keras import engine
from gapcell.observed import Coverage
from gapcell.spec import Spec

__all__ = ["run"]


def run(
    spec: Spec,
    parameters: engine.Parameters,
    x: Array,
    coverage: Coverage,
    state: State,
    dropout: Array | None,
    activations: engine.Activations | None,
    *,
    training: bool,  # gapcell.jax sees for itself whether there is a backward pass
) -> tuple[Array, State]:
    """Run the layer; see `engine.Engine.run`."""
    how = How() if activations is None else How(operations=OPERATIONS._replace(**activations._asdict()))
    if not all(isinstance(size, int) for size in x.shape):
        # An exporter's sizes have no value yet, and the lean backward pass decides by them what to keep.
        how = replace(how, vjp="plain")
    return _run(Parameters(*parameters), x, coverage, state, dropout, spec=spec, how=how)


@partial(jax.jit, static_argnames=("spec", "how"))
def _run(
    parameters: Parameters,
    x: Array,
    coverage: Coverage,
    state: State,
    dropout: Array | None,
    *,
    spec: Spec,
    how: How,
) -> tuple[Array, State]:
    layers = tuple(part[None] for part in state)
    y, last = stack.run([parameters], x, coverage, layers, Scales(None, (dropout,), ()), spec=spec, how=how)
    return y, tuple(part[0] for part in last)
