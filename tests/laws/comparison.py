"""When two results are the same, and what the laws draw at random."""

from __future__ import annotations

from typing import Any

import numpy as np

from laws.cases import Case, like, parts
from laws.layers import Gradients, Layer, ReferenceLayer

TOLERANCE = {np.dtype(np.float64): 1e-12, np.dtype(np.float32): 2e-6}


def assert_same(got: Any, want: Any, what: str) -> None:
    """Bitwise."""
    for g, w in zip(all_arrays(got), all_arrays(want), strict=True):
        assert g.shape == w.shape, f"{what}: shape {g.shape}, expected {w.shape}"
        assert g.tobytes() == w.tobytes(), f"{what}: {np.sum(g != w)} of {g.size} values differ"


def assert_close(got: Any, want: Any, what: str, scale: float = 1.0) -> None:
    for g, w in zip(all_arrays(got), all_arrays(want), strict=True):
        assert g.shape == w.shape, f"{what}: shape {g.shape}, expected {w.shape}"
        if g.size:
            assert np.isfinite(g).all(), f"{what}: not finite"
            limit = scale * TOLERANCE[g.dtype] * max(np.abs(w).max(), np.abs(g).max())
            assert np.abs(g - w).max() <= limit, f"{what}: differs by {np.abs(g - w).max():.2e}, allowed {limit:.2e}"


def all_arrays(value: Any) -> list[np.ndarray]:
    if isinstance(value, np.ndarray):
        return [value]
    children = [value[key] for key in sorted(value)] if isinstance(value, dict) else value
    return [array for child in children for array in all_arrays(child)]


def has_gradients(layer: Layer) -> bool:
    return not isinstance(layer, ReferenceLayer)


def cotangents(layer: Layer, case: Case, seed: int = 7) -> tuple[np.ndarray, Any]:
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
    return found.params, found.x, parts(found.state)
