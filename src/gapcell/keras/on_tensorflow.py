"""The layer on TensorFlow: what is observed, steps first, and series. Sections 1, 3, 5 and 6 of docs/semantics.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from gapcell import arrays, cell, masks, observed
from gapcell.keras import engine
from gapcell.keras.on_tensorflow_loop import OPERATIONS, Loop, Weights
from gapcell.spec import Spec

__all__ = ["of_size", "run"]

Tensor = Any


def run(
    spec: Spec,
    parameters: engine.Parameters,
    x: Tensor,
    coverage: observed.Coverage,
    state: cell.State,
    dropout: Tensor | None,
    activations: engine.Activations | None,
    *,
    training: bool,
) -> tuple[Tensor, cell.State]:
    """Run the layer; see `engine.Engine.run`."""
    if coverage.elements is not None:
        coverage = coverage._replace(elements=of_size(coverage.elements, arrays.shape(x)))
    state = tuple(_as_many_rows(part, x) for part in state)
    seen = observed.see(spec, x, coverage)
    x, update = seen.x, seen.update
    if seen.domain is not None:
        state = tuple(tf.where(seen.domain, part, tf.zeros((), part.dtype)) for part in state)
    if spec.go_backwards:
        x, update = arrays.reverse(x, 1), None if update is None else arrays.reverse(update, 1)
    elapsed = None if seen.elapsed is None else seen.elapsed.cast_wide(state[0])
    if elapsed is not None and spec.go_backwards:
        elapsed = elapsed.reversed()
    operations = OPERATIONS if activations is None else OPERATIONS._replace(**activations._asdict())
    # A gradient of one's own takes no variables.
    values = (None if value is None else tf.convert_to_tensor(value) for value in parameters)
    layer = _Layer(spec, Weights.of(spec, *values), Loop(spec, operations, dropout, keep=training))
    return (layer.sites if spec.window is None else layer.series)(x, update, elapsed and elapsed.ahead, state)


@dataclass(frozen=True)
class _Layer:
    spec: Spec
    weights: Weights
    loop: Loop

    def series(
        self, x: Tensor, kept: Tensor | None, times: Tensor | None, state: cell.State
    ) -> tuple[Tensor, cell.State]:
        """Section 6."""
        window, (samples, events, _) = self.spec.window, arrays.shape(x)
        assert window is not None  # noqa: S101 # `run` chose this by it
        valid = tf.ones((samples, events), tf.bool)
        if kept is not None:
            x, counts = masks.compact(x, kept)
            valid = masks.from_lengths(counts, events)
        whole = kept is None and isinstance(events, int) and events % window == 0
        update = None if whole else masks.windows(valid, window)
        waits = None if times is None else observed.wait_for_windows(times, kept, window)
        y, last = self.sites(masks.windows(x, window), update, None if waits is None else waits.before, state)
        y = masks.from_windows(y, events)
        hold, rates = self.spec.masked_output == "hold", self.weights.decay
        if kept is not None:
            y = masks.scatter(y, kept, tf.cast(state[0][:, -1], y.dtype) if hold else None)
        if waits is None:
            return y, last
        if hold:
            y = cell.decayed(y, rates, waits.since)
        return y, tuple(cell.decayed(part, rates, waits.rest) for part in last)

    def sites(
        self, x: Tensor, update: Tensor | None, times: Tensor | None, state: cell.State
    ) -> tuple[Tensor, cell.State]:
        """Sections 2 and 3 over (N, T, *S, C); `update` is (N, T) or (N, T, *S'), `times` (N, T)."""
        if update is not None:
            update = _swap(masks.expand(update, len(x.shape)))
        times = None if times is None else _swap(times)
        hs, last = self.loop.run(self.weights, _swap(_padded(self.spec, x)), update, times, state)
        if update is not None and self.spec.masked_output == "zero":
            hs = tf.where(update, hs, tf.zeros((), hs.dtype))
        return tf.cast(_swap(hs), x.dtype), last


def of_size(mask: Tensor, sizes: Sequence[Any]) -> Tensor:
    """Refuse when it runs a mask whose sizes a graph did not know, which would be broadcast where they are 1.

    Args:
        mask: with as many axes as it has to fit, or fewer.
        sizes: of the array that it covers, the unknown ones as tensors.
    """
    wanted = list(sizes)[: len(mask.shape)]
    known = [size if isinstance(size, int) else None for size in wanted]
    if None not in (*known, *mask.shape):
        return mask
    same = tf.debugging.assert_equal(tf.shape(mask), tf.stack(wanted), "`mask` has other sizes than the input")
    with tf.control_dependencies([same]):  # XLA drops it, but refuses to reshape
        return tf.ensure_shape(tf.reshape(mask, wanted), known)


def _as_many_rows(state: Tensor, x: Tensor) -> Tensor:
    """Refuse when it runs a state, as of a stateful layer, of another batch size, which a graph did not know."""
    if None not in (x.shape[0], state.shape[0]):
        return state
    same = tf.debugging.assert_equal(
        tf.shape(state)[0],
        tf.shape(x)[0],
        "the initial state has another number of rows than the input; with stateful=True every batch has the "
        "size of the first",
    )
    with tf.control_dependencies([same]):
        return tf.identity(state)


def _padded(spec: Spec, x: Tensor) -> Tensor:
    """Zeros (a negative number: a cut) around the sites of (N, T, *S, C) for the input convolution."""
    padding = spec.input_padding(tuple(x.shape[2:-1]))
    cuts = [slice(0, min(right, 0) or None) for _, right in padding]
    amounts = [(left, max(right, 0)) for left, right in padding]
    return tf.pad(x[:, :, *cuts], [(0, 0), (0, 0), *amounts, (0, 0)])


def _swap(x: Tensor) -> Tensor:
    """Rows and steps exchanged."""
    return tf.transpose(x, [1, 0, *range(2, len(x.shape))])
