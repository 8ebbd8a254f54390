"""What a law is tried on: a `Case` holds one layer's options, parameters and inputs, in the canonical layout."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gapcell.spec import Spec

SITES = {1: (4,), 2: (3, 2), 3: (2, 3, 2)}


@dataclass(frozen=True)
class Case:
    """The arguments of one run, as `gapcell.reference.conv_rnn` takes them; `params` is always a list."""

    spec: Spec
    params: list[dict[str, np.ndarray]]
    x: np.ndarray
    mask: np.ndarray | None
    lengths: np.ndarray | None
    domain: np.ndarray | None
    state: Any
    dt: np.ndarray | None = None

    def but(self, **changes: Any) -> Case:
        """The same case with some arguments changed."""
        return replace(self, **changes)

    @property
    def arguments(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("mask", "lengths", "domain", "state", "dt")}

    @property
    def bounds(self) -> np.ndarray:
        """(N, 2): start and stop of every row."""
        N, T = self.x.shape[:2]
        if self.lengths is None:
            return np.tile(np.array([0, T]), (N, 1))
        return self.lengths if self.lengths.ndim == 2 else np.stack([0 * self.lengths, self.lengths], axis=-1)

    @property
    def exists(self) -> np.ndarray:
        """Equation (4), (N, T, *S)."""
        t, trailing = np.arange(self.x.shape[1]), (1,) * (self.x.ndim - 3)
        steps = (self.bounds[:, :1] <= t) & (t < self.bounds[:, 1:])
        exists = np.broadcast_to(steps.reshape(*steps.shape, *trailing), self.x.shape[:-1])
        if self.domain is None:
            return exists
        by_row = self.domain.ndim == self.spec.rank + 1 and self.spec.window is None
        return exists & (self.domain[:, None] if by_row else self.domain)

    @property
    def observed(self) -> np.ndarray:
        """Equation (1), the shape of x."""
        observed = np.broadcast_to(self.exists[..., None], self.x.shape)
        if self.mask is None:
            return observed
        return observed & (self.mask == 1).reshape(*self.mask.shape, *(1,) * (self.x.ndim - self.mask.ndim))

    @property
    def kept(self) -> np.ndarray:
        """Which steps, sites or events take part: exists under predict, else v."""
        return self.exists if self.spec.gap == "predict" else self.observed.any(axis=-1)

    @property
    def existing_steps(self) -> np.ndarray:
        """Which steps exist, (N, T), or of a series which events, (N, S)."""
        if self.spec.window is not None:
            return self.exists
        t = np.arange(self.x.shape[1])
        return (self.bounds[:, :1] <= t) & (t < self.bounds[:, 1:])

    @property
    def elapsed(self) -> np.ndarray:
        """The times of eq. (24) running forwards, (N, T): 0 where nothing exists."""
        times = np.ones(self.x.shape[:2]) if self.dt is None else self.dt
        return np.where(self.existing_steps, times, 0)


def make_spec(**options: Any) -> Spec:
    return Spec(**({"rank": 1, "in_channels": 2, "filters": 3, "kernel_size": 3} | options))


def normal(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def make_params(
    spec: Spec, rng: np.random.Generator | None = None, dtype: Any = np.float64
) -> list[dict[str, np.ndarray]]:
    """Parameters of every layer and direction, large enough that gates leave their linear range.

    Rates of decay are positive, but for the first of several, which counts as 0.
    """
    rng = rng or np.random.default_rng(0)
    cells = [
        {name: (rng.normal(size=shape) * 0.5).astype(dtype) for name, shape in spec.parameter_shapes(index).items()}
        for index in range(spec.num_layers)
        for _ in range(spec.directions)
    ]
    for cell in cells:
        if "decay" in cell:
            cell["decay"] = np.abs(cell["decay"])
            cell["decay"][: min(1, spec.filters - 1)] *= -1
    return cells


def make_state(spec: Spec, N: int, sites: tuple[int, ...], rng: np.random.Generator, dtype: Any = np.float64) -> Any:
    shape = (spec.num_layers * spec.directions, N, *sites, spec.filters)
    h, c = (rng.normal(size=shape).astype(dtype) for _ in "hc")
    return (h, c) if spec.cell == "lstm" else h


def make_case(
    spec: Spec,
    mask: str | None = "site",
    *,
    N: int = 3,
    T: int = 5,
    sites: tuple[int, ...] | None = None,
    lengths: bool | None = None,
    domain: str | None = None,
    dtype: Any = np.float64,
    seed: int = 0,
    share: float = 0.6,
    dt: bool = True,
) -> Case:
    """A random case: normal inputs and states, `share` of the values observed.

    Args:
        spec: the layer.
        mask: "step", "site" or "element", or None.
        N: rows.
        T: steps, or events of a series.
        sites: of the input; None takes a few.
        lengths: whether rows start and stop at random; None gives lengths where `gap` is not "hold", so that no
            warning is drawn.
        domain: "shared" (*S,) or "row" (N, *S), or None.
        dtype: of every array.
        seed: of the random numbers.
        share: the observed part.
        dt: whether times are drawn where `gap` is "decay"; else they are 1.
    """
    rng = np.random.default_rng(seed)
    sites = () if spec.window is not None else sites or SITES[spec.rank]
    x = rng.normal(size=(N, T, *sites, spec.in_channels)).astype(dtype)
    shapes = {"step": x.shape[:2], "site": x.shape[:-1], "element": x.shape}
    observed = None if mask is None else rng.random(shapes[mask]) < share
    bounds = None
    if lengths or (lengths is None and spec.gap != "hold"):
        bounds = np.sort(rng.integers(0, T + 1, size=(N, 2)), axis=1)
        bounds[0] = [min(1, T), T]  # one row is long
    places = sites or (T,)
    within = {None: None, "shared": rng.random(places) < 0.7, "row": rng.random((N, *places)) < 0.7}[domain]
    inside = (spec.window,) if spec.window is not None else spec.output_sites(sites)
    state = make_state(spec, N, inside, rng, dtype)
    params = make_params(spec, rng, dtype)
    times = rng.exponential(size=(N, T)).astype(dtype) if spec.gap == "decay" and dt else None
    return Case(spec, params, x, observed, bounds, within, state, times)


def parts(state: Any) -> tuple[np.ndarray, ...]:
    """(h, c) or (h,)."""
    return tuple(state) if isinstance(state, tuple | list) else (state,)


def like(state: Any, arrays: Any) -> Any:
    """The arrays in the form `state` has: a pair, or one array."""
    return tuple(arrays) if isinstance(state, tuple | list) else next(iter(arrays))
