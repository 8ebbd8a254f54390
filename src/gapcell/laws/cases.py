"""What a law is tried on: a `Case` holds one layer's options, parameters and inputs, in the canonical layout."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from gapcell.laws.verdicts import CannotBeAsked
from gapcell.spec import Spec

__all__ = ["Case", "like", "make_case", "make_params", "make_spec", "make_state", "normal", "parts"]

SITES = {1: (4,), 2: (3, 2), 3: (2, 3, 2)}
SIZES = frozenset({"rank", "in_channels", "filters", "kernel_size"})


@dataclass(frozen=True)
class Case:
    """The arguments of one run, as `gapcell.reference.conv_rnn` takes them, channels last.

    Attributes:
        spec: sizes and options of the layer.
        params: its parameters, named and shaped as `Spec.parameter_shapes` says: a dict for each layer and direction.
        x: the input, (N, T, *S, C), or a series (N, S, C) where `spec.window` is there.
        mask: what is observed, of steps (N, T), sites (N, T, *S) or elements (N, T, *S, C), or None.
        lengths: (N,) or (N, 2) start and stop, or None.
        domain: sites that exist, (*S,) or (N, *S), or None.
        state: the initial (h, c), or h of a GRU, each (layers * directions, N, *S, F), or None.
        dt: (N, T), elapsed times under gap="decay", or None.
    """

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
        """What a layer is called with beside x, by name."""
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
        return self.exists if self.spec.gap == "predict" else np.asarray(self.observed.any(axis=-1))

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

    # For adapters of layers that can do less --------

    def takes_only(self, *options: str) -> None:
        """Says no for a layer whose only options are these, e.g. "cell", and its sizes.

        Raises:
            CannotBeAsked: another option of the spec is not Spec's default.
        """
        plain = Spec(**{name: getattr(self.spec, name) for name in SIZES})
        for field in fields(Spec):
            value = getattr(self.spec, field.name)
            if field.name not in SIZES | {*options, "same_padding"} and value != getattr(plain, field.name):
                raise CannotBeAsked(f"{field.name}={value!r}")

    def mask_within_lengths(self) -> np.ndarray | None:
        """For a layer that takes a mask of any kind and no lengths: the mask, False beyond the lengths.

        A mask that fits nothing comes out as it is, for the layer to refuse.

        Raises:
            CannotBeAsked: there is a domain, or lengths that fit nothing.
        """
        if self.domain is not None:
            raise CannotBeAsked("a domain")
        shapes = (self.x.shape[:2], self.x.shape[:-1], self.x.shape)
        if self.lengths is None or (self.mask is not None and self.mask.shape not in shapes):
            return self.mask
        N = len(self.x)
        if self.lengths.shape not in ((N,), (N, 2)):
            raise CannotBeAsked("lengths")
        steps = self.existing_steps
        return (
            steps if self.mask is None else (self.mask == 1) & steps.reshape(*steps.shape, *(1,) * (self.mask.ndim - 2))
        )

    def step_mask(self) -> np.ndarray | None:
        """For a layer that takes a mask of steps (N, T) and no lengths; as `mask_within_lengths`.

        Raises:
            CannotBeAsked: also where some sites or elements of a step are observed and others not.
        """
        mask = self.mask_within_lengths()
        if mask is None or mask.ndim == 2 or mask.shape not in (self.x.shape[:-1], self.x.shape):
            return mask
        steps = (mask == 1).reshape(*mask.shape[:2], -1)
        if not (steps.all(axis=2) == steps.any(axis=2)).all():
            raise CannotBeAsked("a mask of sites" if mask.ndim < self.x.ndim else "a mask of elements")
        return steps.all(axis=2)

    def right_lengths(self) -> np.ndarray | None:
        """For a layer that takes lengths (N,) and no mask: how many steps of each row come before its padding.

        Lengths that fit nothing come out as they are, for the layer to refuse. None: there is neither mask nor lengths.

        Raises:
            CannotBeAsked: there is a domain, or padding anywhere but on the right, or a mask that fits nothing.
        """
        if (
            self.mask is None
            and self.domain is None
            and (self.lengths is None or self.lengths.shape != (len(self.x), 2))
        ):
            return self.lengths
        if self.mask is not None and self.mask.shape not in (self.x.shape[:2], self.x.shape[:-1], self.x.shape):
            raise CannotBeAsked("a mask")
        mask = self.step_mask()
        steps = np.ones(self.x.shape[:2], dtype=bool) if mask is None else mask == 1
        lengths = steps.sum(axis=1)
        if (steps != (np.arange(steps.shape[1]) < lengths[:, None])).any():
            raise CannotBeAsked("a gap before a row's end")
        return lengths


def make_spec(**options: Any) -> Spec:
    """A small layer: one site axis, 2 channels in, 3 filters, 3 taps, unless told."""
    sizes: dict[str, Any] = {"rank": 1, "in_channels": 2, "filters": 3, "kernel_size": 3}
    return Spec(**sizes | options)


def normal(*shape: int, seed: int = 1) -> np.ndarray:
    """Standard normal numbers."""
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
    """Normal (h, c), or h of a GRU."""
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
        mask: "step", "site" or "element"; "padding": of steps, each row observed up to a length; or None.
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
    shapes = {"step": x.shape[:2], "site": x.shape[:-1], "element": x.shape, "padding": (N, 1)}
    observed = None if mask is None else rng.random(shapes[mask]) < share
    if mask == "padding":
        observed = (
            np.arange(T) < np.append(rng.integers(1, T, size=N - 1), T)[:, None] if T > 1 else np.ones((N, T), bool)
        )
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


def parts(state: Any) -> tuple[Any, ...]:
    """(h, c), (h,), or () of None."""
    if state is None:
        return ()
    return tuple(state) if isinstance(state, tuple | list) else (state,)


def like(state: Any, arrays: Any) -> Any:
    """The arrays in the form `state` has: a pair, or one array; None in that of None."""
    if state is None:
        return None
    return tuple(arrays) if isinstance(state, tuple | list) else next(iter(arrays))
