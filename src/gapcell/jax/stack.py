"""A stack of layers and directions over one batch. Sections 2, 3, 5 and 6 of docs/semantics.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from gapcell import cell, masks, observed
from gapcell.cell import State
from gapcell.jax import kernel, recurrence
from gapcell.jax.convolution import Parameters
from gapcell.jax.dropout import Scales
from gapcell.jax.recurrence import How
from gapcell.spec import Spec

__all__ = ["run"]


def run(
    parameters: Sequence[Parameters],
    x: Array,
    coverage: observed.Coverage,
    state: State,
    scales: Scales,
    *,
    spec: Spec,
    how: How,
) -> tuple[Array, State]:
    """Run every layer.

    Args:
        parameters: in nn.LSTM's order: layer 0 forward, layer 0 backward, layer 1 forward, ...
        x: (N, T, *S, C), or (N, S, C) for a series.
        coverage: what is observed and what exists.
        state: (h, c) or (h,), each (layers·directions, N, *S', F).
        scales: what dropout drew.
        spec: of the stack; its probabilities are not looked at.
        how: the recurrence computes.

    Returns:
        y (N, T, *S', F·directions), or (N, S, F·directions) for a series, and the last state.
    """
    seen = observed.see(spec, x, coverage)
    x, update = _drop(seen.x, scales.input), seen.update
    if seen.domain is not None:
        state = tuple(jnp.where(seen.domain, part, 0) for part in state)
    elapsed = None if seen.elapsed is None else seen.elapsed.cast_wide(state[0])
    if spec.go_backwards:
        x, update = x[:, ::-1], _reversed(update)
        elapsed = None if elapsed is None else elapsed.reversed()
    last: list[State] = []
    for index in range(spec.num_layers):
        plan = recurrence.Plan(spec.layer(index), how)
        hold = spec.masked_output == "hold" and index == spec.num_layers - 1
        outputs = []
        for backward in (False, True)[: spec.directions]:
            slot = len(last)
            layer = _Layer(plan, parameters[slot], scales.recurrent[slot], hold)
            times = None if elapsed is None else elapsed[backward]
            read = (x[:, ::-1], _reversed(update), _reversed(times)) if backward else (x, update, times)
            y, after = layer.run(*read, tuple(part[slot] for part in state))
            outputs.append(y[:, ::-1] if backward else y)
            last.append(after)
        x = outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=-1)
        if index < spec.num_layers - 1:
            x = _drop(x, scales.between[index])
    return x, tuple(jnp.stack(parts) for parts in zip(*last, strict=True))


class _Layer(NamedTuple):
    """One layer in one direction, its dropout drawn."""

    plan: recurrence.Plan
    parameters: Parameters
    dropout: Array | None
    hold: bool

    def run(self, x: Array, update: Array | None, times: Array | None, state: State) -> tuple[Array, State]:
        return (self._sites if self.plan.spec.window is None else self._series)(x, update, times, state)

    def _series(self, x: Array, kept: Array | None, times: Array | None, state: State) -> tuple[Array, State]:
        """Section 6."""
        window, (samples, events, _) = self.plan.spec.window, x.shape
        assert window is not None  # noqa: S101 # `run` chose this by it
        valid = jnp.ones((samples, events), bool)
        if kept is not None:
            x, counts = masks.compact(x, kept)
            valid = masks.from_lengths(counts, events)
        whole = kept is None and events % window == 0
        update = None if whole else masks.windows(valid, window)
        waits = None if times is None else observed.wait_for_windows(times, kept, window)
        y, last = self._sites(masks.windows(x, window), update, None if waits is None else waits.before, state)
        y = masks.from_windows(y, events)
        if kept is not None:
            y = masks.scatter(y, kept, state[0][:, -1].astype(y.dtype) if self.hold else None)
        if waits is None:
            return y, last
        rates = self.parameters.decay
        if self.hold:
            y = cell.decayed(y, rates, waits.since)
        return y, tuple(cell.decayed(part, rates, waits.rest) for part in last)

    def _sites(self, x: Array, update: Array | None, times: Array | None, state: State) -> tuple[Array, State]:
        """Sections 2 and 3 over (N, T, *S, C); `update` is (N, T) or (N, T, *S'), `times` (N, T)."""
        inputs = recurrence.Inputs(self.parameters, x, state, update, self.dropout, times)
        run = kernel.run if kernel.serves(self.plan, inputs) else recurrence.run_samples_first
        y, last = run(self.plan, self.hold, inputs)
        return y.astype(x.dtype), last


def _reversed(array: Array | None) -> Array | None:
    return None if array is None else array[:, ::-1]


def _drop(x: Array, scale: Array | None) -> Array:
    return x if scale is None else x * scale
