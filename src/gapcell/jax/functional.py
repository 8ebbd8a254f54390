"""The functions that users of JAX call: `init` makes parameters, `apply` runs the layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from gapcell import observed, surprises
from gapcell.cell import State
from gapcell.jax import dropout, stack
from gapcell.jax.convolution import FORMS, Parameters
from gapcell.jax.recurrence import How
from gapcell.jax.reverse_only import forward_refused
from gapcell.spec import Spec

__all__ = ["Params", "apply", "init"]

Cell = dict[str, Array]
Params = Cell | list[Cell]

_SITE_AXES = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}


def init(key: Array, spec: Spec, *, dtype: DTypeLike = jnp.float32) -> Params:
    """Draw the parameters of a layer or a stack.

    Args:
        key: of jax.random.
        spec: of the layers.
        dtype: of the parameters.

    Returns:
        kernel (*k, C, gates*F), recurrent_kernel (*k, F, gates*F), bias (gates*F,) and, for the GRU, recurrent_bias
        (F,), gates in the order i, f, g, o or r, z, n. One dict, or for several layers or directions a list of them in
        nn.LSTM's order. Weights are uniform in ±1/sqrt(fan-in), biases 0 and the forget gate's 1 (Jozefowicz et al.
        2015), as in gapcell.torch; with gap="decay" the rates decay (F,) go from 0.01 to 1, evenly on a logarithmic
        scale.
    """
    surprises.of_spec(spec)
    cells = [
        _init_cell(jax.random.fold_in(key, index * spec.directions + direction), spec, index, dtype)
        for index in range(spec.num_layers)
        for direction in range(spec.directions)
    ]
    return cells if len(cells) > 1 else cells[0]


def apply(
    params: Mapping[str, ArrayLike] | Sequence[Mapping[str, ArrayLike]],
    x: ArrayLike,
    spec: Spec,
    *,
    mask: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    domain: ArrayLike | None = None,
    state: Any = None,
    dt: ArrayLike | None = None,
    key: Array | None = None,
    vjp: Literal["lean", "plain"] = "lean",
    convolution: Literal["matmul", "xla"] | None = None,
) -> tuple[Array, Any]:
    """Run masked ConvLSTM or ConvGRU layers over a batch; a pure function, for any transform of JAX's.

    On a CPU, in float32 and bfloat16, the compiled kernel computes it where there is one (`gapcell info` says), forward
    and backward: only what is observed, as the masks have it when it runs. It uses the cores that XLA does. Whether it
    is used is decided when a function is traced: for functions that were jitted before, `gapcell.native.using("off")`
    comes too late, and needs jax.clear_caches(). Programs that are exported, run on other devices or are divided over
    several by jit are computed by XLA, every step, masked or not. Under jax.vmap the kernel takes one member after the
    other; jax.shard_map gives each device its own call.

    Args:
        params: as `init` returns them.
        x: (N, T, *S, C), or a series (N, S, C) with `spec.window`; of the parameters' dtype or, for mixed precision, a
            narrower one, in which the convolutions then compute.
        spec: of the layers; static.
        mask: True where observed; bool, integer or float 0/1, NaN meaning "not observed". (N, T) for steps, (N, T, *S)
            for sites, or the shape of x for elements; (N, S) or (N, S, C) for a series.
        lengths: (N,) or (N, 2) start and stop: which steps (of a series: events) exist. Refused outside 0..T where
            concrete, clamped under tracing.
        domain: (N, *S) or (*S,), True at sites that exist.
        state: (h, c), or h for the GRU, each (layers·directions, N, *S', F), S' the output sites (a series: W); the
            leading axis may be left out where it is 1. None starts from zeros.
        dt: (N, T), of a series (N, S): the time since the step (event) before, at least 0; for gap="decay". None: 1.
        key: of jax.random, draws the dropouts of `spec`; None applies none, as at inference.
        vjp: "lean" keeps h and c for the backward pass and computes the gates again; "plain" lets JAX differentiate
            every operation, which forward mode (jax.jvp, jax.jacfwd) needs, without the kernel.
        convolution: "matmul" copies taps side by side and multiplies once, "xla" calls XLA's convolution, both without
            the kernel; None takes the kernel, or "matmul" where the code is compiled for a CPU and "xla" elsewhere.

    Returns:
        y (N, T, *S', F·directions), or (N, S, F·directions) for a series, of x's dtype; and the last state, (h, c), or
        h for the GRU, each (layers·directions, N, *S', F), of the parameters' dtype.

    Raises:
        ValueError: shapes or dtypes that do not fit, or concrete values out of range; the message names both.
        TypeError: forward-mode differentiation with vjp="lean".

    Source: docs/semantics.md, equations (1) to (18) and (24).
    """
    _check_choice("vjp", vjp, ("lean", "plain"))
    _check_choice("convolution", convolution, (*FORMS, None))
    cells = _checked_params(params, spec)
    x = _checked_input(x, spec, cells[0].kernel.dtype)
    coverage = observed.resolve(spec, x, mask, lengths, domain, dt)
    initial = _checked_state(state, x, spec, cells[0].kernel.dtype)
    with forward_refused():
        y, last = _run(cells, x, coverage, initial, key, spec=spec, how=How(vjp, convolution))
    return y, last if spec.cell == "lstm" else last[0]


@partial(jax.jit, static_argnames=("spec", "how"))
def _run(
    cells: list[Parameters],
    x: Array,
    coverage: observed.Coverage,
    state: State,
    key: Array | None,
    *,
    spec: Spec,
    how: How,
) -> tuple[Array, State]:
    scales = dropout.draw(key, spec, x.shape[0], x.dtype, state[0].dtype)
    return stack.run(cells, x, coverage, state, scales, spec=spec, how=how)


def _init_cell(key: Array, spec: Spec, index: int, dtype: DTypeLike) -> Cell:
    cell = {}
    for place, (name, shape) in enumerate(spec.parameter_shapes(index).items()):
        if name.endswith("kernel"):
            bound = 1 / math.sqrt(math.prod(shape[:-1]))
            cell[name] = jax.random.uniform(jax.random.fold_in(key, place), shape, dtype, -bound, bound)
        elif name == "decay":
            cell[name] = jnp.logspace(-2, 0, spec.filters, dtype=dtype)
        else:
            cell[name] = jnp.zeros(shape, dtype)
    if spec.bias and spec.cell == "lstm":
        cell["bias"] = cell["bias"].at[spec.filters : 2 * spec.filters].set(1)
    return cell


def _check_choice(name: str, value: object, allowed: tuple[str | None, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"`{name}` is {value!r}, expected one of {', '.join(map(repr, allowed))}")


def _checked_params(params: Any, spec: Spec) -> list[Parameters]:
    cells = [params] if isinstance(params, Mapping) else list(params)
    count = spec.num_layers * spec.directions
    if len(cells) != count:
        raise ValueError(f"`params` has {len(cells)} entries, expected {count}: one dict a layer and direction")
    checked = []
    for slot, cell in enumerate(cells):
        wanted = spec.parameter_shapes(slot // spec.directions)
        if set(cell) != set(wanted):
            raise ValueError(f"`params[{slot}]` has {sorted(cell)}, expected {sorted(wanted)}")
        arrays = {name: jnp.asarray(cell[name]) for name in wanted}
        for name, shape in wanted.items():
            if arrays[name].shape != shape:
                raise ValueError(f"`params[{slot}]`: {name} has shape {arrays[name].shape}, expected {shape}")
        checked.append(Parameters(**arrays))
    dtypes = {array.dtype for cell in checked for array in cell if array is not None}
    if len(dtypes) > 1 or not jnp.issubdtype(next(iter(dtypes)), jnp.floating):
        names = sorted(map(str, dtypes))
        raise ValueError(f"`params` have dtypes {', '.join(names)}, expected one floating-point dtype for all")
    return checked


def _checked_input(x: ArrayLike, spec: Spec, dtype: np.dtype) -> Array:
    x = jnp.asarray(x)
    axes = ("N", "S") if spec.window is not None else ("N", "T", *_SITE_AXES[spec.rank])
    if x.ndim != len(axes) + 1 or x.shape[-1] != spec.in_channels or (spec.window is None and 0 in x.shape[2:-1]):
        cure = "; a series (N, S, C) needs `window`" if spec.window is None and x.ndim == 3 else ""
        wanted = f"({', '.join(axes)}, {spec.in_channels})"
        raise ValueError(f"`x` has shape {x.shape}, expected {wanted}, channels last{cure}")
    if not jnp.issubdtype(x.dtype, jnp.floating) or jnp.promote_types(x.dtype, dtype) != dtype:
        raise ValueError(
            f"`x` has dtype {x.dtype} and shape {x.shape}, but the parameters have {dtype}: expected that or a "
            f"narrower floating-point dtype; convert one of them, e.g. x.astype({str(dtype)!r})"
        )
    return x


def _checked_state(state: Any, x: Array, spec: Spec, dtype: np.dtype) -> State:
    names = ("h", "c") if spec.cell == "lstm" else ("h",)
    sites = spec.output_sites(x.shape[2:-1]) if spec.window is None else (spec.window,)
    wanted = (spec.num_layers * spec.directions, x.shape[0], *sites, spec.filters)
    if state is None:
        return tuple(jnp.zeros(wanted, dtype) for _ in names)
    given = list(state) if isinstance(state, tuple | list) else [state]
    if len(given) != len(names):
        raise ValueError(f"`state` has {len(given)} arrays, expected {len(names)}: {', '.join(names)}")
    parts = [jnp.asarray(part, dtype) for part in given]
    parts = [part[None] if wanted[0] == 1 and part.shape == wanted[1:] else part for part in parts]
    for name, part in zip(names, parts, strict=True):
        if part.shape != wanted:
            raise ValueError(f"`state`: {name} has shape {part.shape}, expected {wanted}")
    return tuple(parts)
