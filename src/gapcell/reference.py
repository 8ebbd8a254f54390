"""The oracle: docs/semantics.md as float64 NumPy loops, readable as the definition; every faster path is judged by it.

Numbers in brackets are its equations. Of the rest of gapcell only the options of `Spec` are used: no arithmetic is
shared with what is judged.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gapcell.spec import Spec

__all__ = ["conv_rnn"]

Array: TypeAlias = NDArray[Any]
Params: TypeAlias = Mapping[str, Array]
State: TypeAlias = list[Array]  # [h, c] of the LSTM, [h] of the GRU

_SITE_AXES = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}


def conv_rnn(
    params: Mapping[str, ArrayLike] | Sequence[Mapping[str, ArrayLike]],
    x: ArrayLike,
    spec: Spec,
    mask: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    domain: ArrayLike | None = None,
    state: Any = None,
    dt: ArrayLike | None = None,
) -> tuple[Array, Any]:
    """Run a masked ConvLSTM or ConvGRU in float64, channels last, in eval mode (dropout probabilities are ignored).

    N samples, T steps, *S sites, C input channels, F filters, *S' output sites. With `spec.window` = W the input is a
    series of S events, and S' is W.

    Args:
        params: kernel (*k, C, 4F), recurrent_kernel (*k, F, 4F), bias (4F,); for the GRU 3F and recurrent_bias (F,);
            no biases if `spec.bias` is False; decay (F,) if `spec.gap` is "decay". For several layers or directions a
            list of them in nn.LSTM's order: layer 0 forward, layer 0 backward, layer 1 forward, ...
        x: (N, T, *S, C), or (N, S, C) with `spec.window`. May hold anything, NaN included, where it is not observed.
        spec: the options.
        mask: True where observed: (N, T), (N, T, *S) or (N, T, *S, C), for a series (N, S) or (N, S, C); bool, or
            0 and 1 of any dtype, NaN being not observed. None: everything is observed.
        lengths: integers (N,) (stop) or (N, 2) (start, stop): which steps or events exist. None: all of them.
        domain: (N, *S) or (*S,), for a series (N, S) or (S,): which sites or events exist. None: all of them.
        state: (h, c), or h for the GRU, each (num_layers * directions, N, *S', F), or (N, *S', F) if there is one layer
            and one direction. None: zeros.
        dt: (N, T), for a series (N, S): the time since the step or event before, for `spec.gap` "decay". None: 1.

    Returns:
        y (N, T, *S', F * directions), or (N, S, F * directions) for a series, and the last state, shaped as `state` is
        described above with its leading axis.

    Raises:
        ValueError: an argument does not have the shape, the dtype or the values described here.

    Source: docs/semantics.md, equations (1) to (18) and (24).
    """
    x = _checked_input(x, spec)
    cells = _checked_params(params, spec)
    within = _checked_domain(domain, x, spec)
    observed, exists = _observed(x, mask, lengths, within)
    ahead, back = _elapsed(dt, np.logical_or.reduce(exists, axis=tuple(range(2, exists.ndim))), spec)
    values = np.where(observed, x, 0.0)  # (2)
    seen = np.logical_or.reduce(observed, axis=-1)  # (3)
    if spec.gap != "hold" and mask is not None and lengths is None and dt is None:
        _warn_of_padding(seen, spec.gap)
    steps = exists if spec.gap == "predict" else seen  # what (5) and (14) look at
    sites = (spec.window,) if spec.window is not None else (axis.outputs for axis in _input_axes(spec, x.shape[2:-1]))
    now = _checked_state(state, (spec.num_layers * spec.directions, x.shape[0], *sites, spec.filters), spec)
    if domain is not None and spec.window is None:  # the domain of a series speaks of events, not of the state's sites
        now = [np.where(_through_conv(within[:, 0], spec)[..., None], part, 0.0) for part in now]  # (11)
    if spec.go_backwards:
        values, steps, ahead = values[:, ::-1], steps[:, ::-1], back[:, ::-1]  # (13)
    run = _run_sites if spec.window is None else _run_series
    y, last = values, []
    for index in range(spec.num_layers):
        outputs, moved = [], steps
        for direction in range(spec.directions):
            turn = slice(None, None, -1 if direction else 1)  # (13)
            slot = index * spec.directions + direction
            before = [part[slot] for part in now]
            times = (back if direction else ahead)[:, turn]
            y, moved, after = run(cells[slot], values[:, turn], steps[:, turn], times, spec.layer(index), before)
            outputs.append(y[:, turn])
            moved = moved[:, turn]
            last.append(after)
        y = np.concatenate(outputs, axis=-1)
        steps = moved  # "the layers above read u of (5) as their mask"
        values = np.where(steps[..., None], y, 0.0)  # (2) of the layer above
    h_and_c = tuple(np.stack(part) for part in zip(*last, strict=True))
    return y, h_and_c if spec.cell == "lstm" else h_and_c[0]


# One layer in one direction -------------------------------------------------------------------------------------------


def _run_sites(
    params: Params, x: Array, steps: Array, times: Array, spec: Spec, state: State, wraps: bool = False
) -> tuple[Array, Array, State]:
    """Step over x (N, T, *S, C) where `steps` (N, T, *S) says; gives y, u of (5) and the last state."""
    axes = _input_axes(spec, x.shape[2:-1])
    sites = tuple(axis.outputs for axis in axes)
    y = np.zeros((*x.shape[:2], *sites, spec.filters))
    moved = np.zeros((*x.shape[:2], *sites), dtype=bool)
    for t in range(x.shape[1]):
        u = moved[:, t] = _through_conv(steps[:, t], spec)  # (5)
        state = _decayed(state, params, times[:, t])  # (24)
        a = _conv(x[:, t], params["kernel"], axes) + params.get("bias", 0.0)  # (6)
        r = _recurrent(state[0], params["recurrent_kernel"], spec, wraps)  # (6)
        stepped = _cell(a, r, state, params.get("recurrent_bias", 0.0), spec)
        state = [np.where(u[..., None], new, old) for new, old in zip(stepped, state, strict=True)]  # (9)
        held = state[0] if spec.masked_output == "hold" else 0.0
        y[:, t] = np.where(u[..., None], stepped[0], held)  # (10)
    return y, moved, state


def _run_series(
    params: Params, x: Array, kept: Array, times: Array, spec: Spec, state: State
) -> tuple[Array, Array, State]:
    """Step over the windows of the kept events of x (N, S, C), kept (N, S) by (14); gives y (N, S, F), kept, state."""
    (N, S, C), W = x.shape, state[0].shape[1]
    T = -(-S // W)
    events, exists = np.zeros((N, T * W, C)), np.zeros((N, T * W), dtype=bool)
    waited, left = np.zeros((N, T * W)), np.zeros(N)
    for n in range(N):
        M = kept[n].sum()
        events[n, :M] = x[n, kept[n]]  # (15)
        exists[n, :M] = True
        waited[n, :M], left[n] = _between(times[n], kept[n])
    windows = events.reshape(N, T, W, C), exists.reshape(N, T, W)  # (16): event m, site m mod W of step m div W
    done, _, last = _run_sites(params, *windows, waited[:, ::W], spec, state, wraps=True)
    last = _decayed(last, params, left)
    done = done.reshape(N, T * W, spec.filters)
    y = np.zeros((N, S, spec.filters))
    for n in range(N):
        held = state[0][n, W - 1] if spec.masked_output == "hold" else np.zeros(spec.filters)
        m = 0
        for s in range(S):  # (18)
            held = _decayed([held], params, times[n, s])[0]
            y[n, s] = done[n, m] if kept[n, s] else held
            m += kept[n, s]
            if spec.masked_output == "hold":
                held = y[n, s]
    return y, kept, last


def _cell(a: Array, r: Array, state: State, recurrent_bias: Array | float, spec: Spec) -> State:
    """The state after one step at every site, masks aside."""
    if spec.cell == "lstm":  # (7)
        _, c = state
        i, f, g, o = np.split(a + r, 4, axis=-1)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        return [_sigmoid(o) * np.tanh(c), c]
    (h,) = state  # (8)
    a_r, a_z, a_n = np.split(a, 3, axis=-1)
    r_r, r_z, r_n = np.split(r, 3, axis=-1)
    reset, z = _sigmoid(a_r + r_r), _sigmoid(a_z + r_z)
    n = np.tanh(a_n + reset * (r_n + recurrent_bias))
    return [(1 - z) * n + z * h]


def _decayed(state: State, params: Params, times: Array) -> State:
    """Equation (24) for the times (N,); as it is under another gap rule."""
    if "decay" not in params:
        return state
    rates = np.maximum(params["decay"], 0.0)
    return [part * np.exp(-rates * times.reshape(-1, *(1,) * (part.ndim - 1))) for part in state]


def _sigmoid(a: Array) -> Array:
    small = np.exp(-np.abs(a))  # never overflows
    return np.where(a >= 0, 1 / (1 + small), small / (1 + small))


# Convolutions (section 4) ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Axis:
    """How a convolution reads one site axis."""

    taps: int
    left: int
    outputs: int
    stride: int = 1
    dilation: int = 1
    centre: int = 0  # of the sites under the window, the one that decides under the rule "centre"

    def reads(self, offset: int) -> Array:
        """The input site `offset` sites into the window, for every output site; it may lie outside the array."""
        return np.arange(self.outputs) * self.stride + offset - self.left


def _conv(x: Array, kernel: Array, axes: list[_Axis]) -> Array:
    """An input (N, *S, C) under a kernel (*k, C, O) gives (N, *S', O), by (12)."""
    y = np.zeros((x.shape[0], *(axis.outputs for axis in axes), kernel.shape[-1]))
    for taps in np.ndindex(*(axis.taps for axis in axes)):
        y += _read(x, [axis.reads(j * axis.dilation) for axis, j in zip(axes, taps, strict=True)]) @ kernel[taps]
    return y


def _read(x: Array, places: list[Array]) -> Array:
    """The places (one list a site axis) of x (N, *S, ...); 0 or False outside the array."""
    for axis, place in enumerate(places, start=1):
        x = _read_axis(x, place, axis)
    return x


def _read_axis(x: Array, place: Array, axis: int) -> Array:
    inside = (place >= 0) & (place < x.shape[axis])
    x = np.take(x, np.where(inside, place, 0), axis=axis)
    return np.where(inside.reshape(-1, *(1,) * (x.ndim - axis - 1)), x, np.zeros((), x.dtype))


def _through_conv(mask: Array, spec: Spec) -> Array:
    """A site mask (N, *S) at the output sites of the input convolution (section 1), bool (N, *S')."""
    for number, axis in enumerate(_input_axes(spec, mask.shape[1:]), start=1):
        seen = missed = np.zeros(1, dtype=bool)
        for j in range(axis.taps):
            tap = axis.reads(j * axis.dilation)
            seen, missed = seen | _read_axis(mask, tap, number), missed | _read_axis(~mask, tap, number)
        centre = _read_axis(mask, axis.reads(axis.centre), number)
        decided = {"centre": centre, "all": ~missed, "any": seen}[spec.rule]
        mask = np.where(seen | missed, decided, centre)  # where no tap lies inside, the centre decides
    return mask


def _recurrent(h: Array, kernel: Array, spec: Spec, wraps: bool) -> Array:
    """Wh * h of (6); `wraps` reads the end of the previous window left of site 0, by (17)."""
    axes = []
    for k, size in zip(kernel.shape[: spec.rank], h.shape[1:-1], strict=True):
        left = k - 1 if spec.causal else (k - 1) // 2
        axes.append(_Axis(taps=k, left=left - size if wraps else left, outputs=size))
    return _conv(np.concatenate([h, h], axis=1) if wraps else h, kernel, axes)


def _input_axes(spec: Spec, sites: tuple[int, ...]) -> list[_Axis]:
    """The input convolution over `sites`, by the table of section 4."""
    axes = []
    options = (spec.sizes("kernel_size"), spec.sizes("stride"), spec.sizes("dilation"))
    for size, k, stride, dilation in zip(sites, *options, strict=True):
        K = dilation * (k - 1) + 1
        outputs, left, centre = -(-size // stride), (K - 1) // 2, (K - 1) // 2
        if spec.padding == "valid":
            outputs, left = (size - K) // stride + 1, 0
            if outputs < 1:
                raise ValueError(f'`kernel_size` covers {K} sites under padding="valid", but `x` has sites {sites}')
        elif spec.causal:
            left = centre = K - 1
        elif spec.same_padding == "keras":
            left = max((outputs - 1) * stride + K - size, 0) // 2
        axes.append(_Axis(k, left, outputs, stride, dilation, centre))
    return axes


# What is observed, what exists (section 1), and what is refused -------------------------------------------------------


def _observed(x: Array, mask: ArrayLike | None, lengths: ArrayLike | None, within: Array) -> tuple[Array, Array]:
    """Gives e of (1), shaped as x, and exists of (4), shaped as x without channels."""
    exists = np.broadcast_to(within, x.shape[:-1])
    if lengths is not None:
        bounds, t = _checked_lengths(lengths, *x.shape[:2]), np.arange(x.shape[1])
        stepwise = (bounds[:, :1] <= t) & (t < bounds[:, 1:])
        exists = exists & stepwise.reshape(*stepwise.shape, *(1,) * (x.ndim - 3))
    observed = np.broadcast_to(exists[..., None], x.shape)
    if mask is not None:
        mask = _checked_binary("mask", mask)
        wanted = dict.fromkeys((x.shape[:2], x.shape[:-1], x.shape))  # in a series a step is a site
        if mask.shape not in wanted:
            raise ValueError(f"`mask` has shape {mask.shape}, expected {' or '.join(map(str, wanted))}")
        observed = observed & mask.reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim))
    return observed, exists


def _elapsed(dt: ArrayLike | None, exists: Array, spec: Spec) -> tuple[Array, Array]:
    """The times of (24), each (N, T): running forwards, and backwards (in the order of the steps)."""
    ahead, back = np.zeros((2, *exists.shape))
    if spec.gap != "decay":
        if dt is not None:
            raise ValueError(f'`dt` is given, but `gap` is "{spec.gap}"; expected "decay"')
        return ahead, back
    times = np.ones(exists.shape) if dt is None else np.asarray(dt, dtype=np.float64)
    if times.shape != exists.shape:
        raise ValueError(f"`dt` has shape {times.shape}, expected {exists.shape}")
    if not (np.isfinite(times) & (times >= 0))[exists].all():
        raise ValueError("`dt` holds negative or infinite times or NaN at steps that exist")
    for n, there in enumerate(exists):
        ahead[n, there] = times[n, there]
        back[n, there] = np.append(times[n, there][1:], 0.0)[: there.sum()]  # the way from the step after
    return ahead, back


def _between(times: Array, kept: Array) -> tuple[Array, float]:
    """The time from each kept event's predecessor to it, and from the last to the end of the series."""
    waited, since = [], 0.0
    for time, keep in zip(times, kept, strict=True):
        since += time
        if keep:
            waited.append(since)
            since = 0.0
    return np.array(waited), since


def _warn_of_padding(seen: Array, gap: str) -> None:
    by_step = np.logical_or.reduce(seen, axis=tuple(range(2, seen.ndim)))
    if by_step.shape[1] and not by_step[:, [0, -1]].all():
        taken = "steps through" if gap == "predict" else "decays in"
        text = f'`mask` begins or ends in steps without any observation, which gap="{gap}" {taken}; '
        warnings.warn(text + "if they are padding, say so with `lengths`", UserWarning, stacklevel=3)


def _checked_input(x: ArrayLike, spec: Spec) -> Array:
    x = np.asarray(x, dtype=np.float64)
    axes = ("N", "S") if spec.window is not None else ("N", "T", *_SITE_AXES[spec.rank])
    sites = () if spec.window is not None else x.shape[2:-1]
    if x.ndim != len(axes) + 1 or x.shape[-1] != spec.in_channels or 0 in sites:
        cure = "; a series (N, S, C) needs `window`" if spec.window is None and x.ndim == 3 else ""
        raise ValueError(f"`x` has shape {x.shape}, expected ({', '.join(axes)}, {spec.in_channels}){cure}")
    return x


def _checked_domain(domain: ArrayLike | None, x: Array, spec: Spec) -> Array:
    """Which sites exist, ready to be broadcast over x without channels: (N, 1, *S); of a series the events, (N, S)."""
    sites = x.shape[2:-1] if spec.window is None else x.shape[1:-1]
    within = np.ones(sites, dtype=bool) if domain is None else _checked_binary("domain", domain)
    if within.shape not in ((x.shape[0], *sites), sites):
        raise ValueError(f"`domain` has shape {within.shape}, expected {(x.shape[0], *sites)} or {sites}")
    within = np.broadcast_to(within, (x.shape[0], *sites))
    return within[:, None] if spec.window is None else within


def _checked_binary(name: str, values: ArrayLike) -> Array:
    """True where the value is 1; NaN is False, everything but 0, 1 and NaN is refused."""
    values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"`{name}` has dtype {values.dtype}, expected bool, integer or float 0 and 1")
    wrong = values[(values != 0) & (values != 1) & (values == values)]
    if wrong.size:
        raise ValueError(f"`{name}` holds {wrong[0]}, expected only 0 and 1 (True where observed)")
    return values == 1


def _checked_lengths(lengths: ArrayLike, N: int, T: int) -> Array:
    """(N, 2): start and stop of every row."""
    lengths = np.asarray(lengths)
    if lengths.shape not in ((N,), (N, 2)):
        raise ValueError(f"`lengths` has shape {lengths.shape}, expected {(N,)} or {(N, 2)}")
    if lengths.dtype.kind not in "iu":
        raise ValueError(f"`lengths` has dtype {lengths.dtype}, expected integers")
    bounds = np.stack([np.zeros_like(lengths), lengths], axis=-1) if lengths.ndim == 1 else lengths
    wrong = (bounds < 0).any(axis=1) | (bounds > T).any(axis=1) | (bounds[:, 0] > bounds[:, 1])
    if wrong.any():
        row = bounds[wrong][0].tolist()
        raise ValueError(f"`lengths` holds {row} (start, stop), expected 0 <= start <= stop <= {T}")
    return bounds


def _checked_params(params: Any, spec: Spec) -> list[Params]:
    cells = [params] if isinstance(params, Mapping) else list(params)
    count = spec.num_layers * spec.directions
    if len(cells) != count:
        raise ValueError(f"`params` has {len(cells)} entries, expected {count}: one a layer and direction")
    checked: list[Params] = []
    for slot, cell in enumerate(cells):
        wanted = spec.parameter_shapes(slot // spec.directions)
        if set(cell) != set(wanted):
            raise ValueError(f"`params[{slot}]` has {sorted(cell)}, expected {sorted(wanted)}")
        arrays = {name: np.asarray(value, dtype=np.float64) for name, value in cell.items()}
        for name, shape in wanted.items():
            if arrays[name].shape != shape:
                raise ValueError(f"`params[{slot}]`: {name} has shape {arrays[name].shape}, expected {shape}")
        checked.append(arrays)
    return checked


def _checked_state(state: Any, shape: tuple[int, ...], spec: Spec) -> State:
    names = ("h", "c") if spec.cell == "lstm" else ("h",)
    if state is None:
        return [np.zeros(shape) for _ in names]
    arrays = list(state) if isinstance(state, tuple | list) else [state]
    if len(arrays) != len(names):
        raise ValueError(f"`state` has {len(arrays)} arrays, expected {len(names)}: {', '.join(names)}")
    checked = []
    for name, array in zip(names, (np.asarray(array, dtype=np.float64) for array in arrays), strict=True):
        if shape[0] == 1 and array.shape == shape[1:]:
            array = array[None]
        if array.shape != shape:
            raise ValueError(f"`state`: {name} has shape {array.shape}, expected {shape}")
        checked.append(array)
    return checked
