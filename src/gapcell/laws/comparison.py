"""When two results are the same, and what the laws draw at random."""

from __future__ import annotations

from typing import Any

import numpy as np

from gapcell.laws.adapter import Adapter, Gradients
from gapcell.laws.cases import Case, like, parts
from gapcell.laws.verdicts import require

TOLERANCE = {np.dtype(np.float64): 1e-12, np.dtype(np.float32): 2e-6}


def assert_same(got: Any, want: Any, what: str) -> None:
    """Bitwise."""
    for g, w in _pairs(got, want, what):
        if g.tobytes() != w.tobytes():
            raise_different(g, w, what)


def assert_close(got: Any, want: Any, what: str, scale: float = 1.0) -> None:
    """Within `TOLERANCE` times `scale` of the largest value, and finite."""
    for g, w in _pairs(got, want, what):
        if not g.size:
            continue
        require(np.isfinite(g).all(), f"{what}: {np.sum(~np.isfinite(g))} of {g.size} values are not finite")
        limit = scale * TOLERANCE[g.dtype] * max(np.abs(w).max(), np.abs(g).max())
        error = np.abs(g - w).max()
        require(error <= limit, f"{what}: differs by {error:.2e}, allowed {limit:.2e}")


def assert_zero(array: np.ndarray, what: str) -> None:
    """Exactly; `what` is a clause such as "the gradient is not 0"."""
    if array.any():
        finite = array[np.isfinite(array)]
        largest = f"up to {np.abs(finite).max():.2e}" if finite.any() else "not finite"
        require(False, f"{what}: {np.count_nonzero(array)} of {array.size} values, {largest}")


def raise_different(got: np.ndarray, want: np.ndarray, what: str) -> None:
    """Says how far the two lie apart."""
    differs = (got != want) & ~(np.isnan(got) & np.isnan(want))
    gap = np.abs(np.subtract(got, want, dtype=np.float64, where=differs, out=np.zeros(got.shape))).max(initial=0)
    size = f"by up to {gap:.2e}" if np.isfinite(gap) else "some are not finite"
    require(False, f"{what}: {np.sum(differs)} of {got.size} values differ, {size}")


def _pairs(got: Any, want: Any, what: str) -> list[tuple[np.ndarray, np.ndarray]]:
    found, wanted = all_arrays(got), all_arrays(want)
    require(len(found) == len(wanted), f"{what}: {len(found)} arrays, expected {len(wanted)}")
    for g, w in zip(found, wanted, strict=True):
        require(g.shape == w.shape, f"{what}: shape {g.shape}, expected {w.shape}")
    return list(zip(found, wanted, strict=True))


def all_arrays(value: Any) -> list[np.ndarray]:
    """The arrays of a nest of lists, tuples and dicts; None holds none."""
    if value is None:
        return []
    if isinstance(value, np.ndarray):
        return [value]
    children = [value[key] for key in sorted(value)] if isinstance(value, dict) else value
    return [array for child in children for array in all_arrays(child)]


def cotangents(layer: Adapter, case: Case, seed: int = 7) -> tuple[np.ndarray, Any]:
    """Random cotangents of the output and the last state."""
    rng = np.random.default_rng(seed)
    y, last = layer.run(case)
    return rng.normal(size=y.shape).astype(y.dtype), like(
        last, [rng.normal(size=part.shape).astype(part.dtype) for part in parts(last)]
    )


def garbage(case: Case, fill: float = np.nan) -> Case:
    """The case with `fill` wherever nothing is observed."""
    return case.but(x=np.where(case.observed, case.x, np.asarray(fill, case.x.dtype)))


def all_gradients(found: Gradients) -> Any:
    """Of the parameters, the input and the initial state."""
    return found.params, found.x, parts(found.state)
