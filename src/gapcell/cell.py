"""One recurrent step, once, over a handful of array operations.

Where a framework has no faster path this is what runs; docs/semantics.md, equations (7) to (10). Arrays are channels
last: pre-activations end in gates*F channels, states in F.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from gapcell import arrays
from gapcell.spec import Spec

__all__ = ["Operations", "State", "decayed", "step"]

Array = Any
State = tuple[Array, ...]  # (h, c) for the LSTM, (h,) for the GRU


class Operations(NamedTuple):
    """What a framework supplies.

    Attributes:
        sigmoid: the logistic function, element by element; Keras lets its users exchange it, and the next one.
        tanh: the hyperbolic tangent, element by element.
        where: (condition, x, y) x where the condition is True, else y; NaN in what is not selected does not pass.
        split: (x, parts) the last axis in equal parts.
    """

    sigmoid: Callable[[Array], Array]
    tanh: Callable[[Array], Array]
    where: Callable[[Array, Array, Array], Array]
    split: Callable[[Array, int], Sequence[Array]]


def step(
    ops: Operations,
    spec: Spec,
    from_input: Array,
    from_state: Array,
    state: State,
    *,
    update: Array | None = None,
    recurrent_bias: Array | None = None,
) -> State:
    """The state after one step.

    Args:
        ops: the framework's operations.
        spec: of the layer; its cell decides.
        from_input: a of eq. (6), (N, *S, gates*F).
        from_state: r of eq. (6), (N, *S, gates*F).
        state: (h, c) or (h,), each (N, *S, F).
        update: bool, True where the state steps, broadcast over (N, *S, F); None steps everywhere. Eq. (9).
        recurrent_bias: bhn of eq. (8), (F,), or None.

    Returns:
        The new state, held where `update` is False.
    """
    if spec.cell == "lstm":
        new = _lstm(ops, from_input + from_state, state[1])
    else:
        new = _gru(ops, from_input, from_state, state[0], recurrent_bias)
    if update is None:
        return new
    return tuple(ops.where(update, after, before) for after, before in zip(new, state, strict=True))


def decayed(part: Array, rates: Array, times: Array) -> Array:
    """Eq. (24): what is left of a state after some time.

    Args:
        part: (N, *S, F), or with more axes in front, of a state.
        rates: (F,); negative ones are taken as 0.
        times: as many of the leading axes of `part`, in float32 or wider.

    Returns:
        `part` times exp(-rates * times), in its own dtype.
    """
    times = arrays.expand(times, part.ndim)
    # By a select the slope at 0 is that of a rate above 0: a rate of 0 is held, and can be learnt away from.
    rates = arrays.cast(arrays.where(~(rates < 0), rates, 0), times)
    return arrays.cast(arrays.cast(part, times) * arrays.exp(-rates * times), part)


def _lstm(ops: Operations, z: Array, c: Array) -> State:
    i, f, g, o = ops.split(z, 4)
    c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
    return ops.sigmoid(o) * ops.tanh(c), c


def _gru(ops: Operations, a: Array, r: Array, h: Array, recurrent_bias: Array | None) -> State:
    a_reset, a_update, a_new = ops.split(a, 3)
    r_reset, r_update, r_new = ops.split(r, 3)
    if recurrent_bias is not None:
        r_new = r_new + recurrent_bias
    update = ops.sigmoid(a_update + r_update)
    new = ops.tanh(a_new + ops.sigmoid(a_reset + r_reset) * r_new)
    return ((1 - update) * new + update * h,)
