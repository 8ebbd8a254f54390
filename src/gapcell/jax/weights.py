"""Parameters of a flax nnx module as NumPy arrays, and back; for `gapcell.weights`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gapcell import arrays
from gapcell.jax.weighted import Weighted
from gapcell.spec import Spec

__all__ = ["read", "spec_of", "write"]


def spec_of(layer: Weighted) -> Spec:
    """The Spec of a module."""
    return layer.spec


def read(layer: Weighted) -> list[dict[str, np.ndarray]]:
    """Copies of its parameters, a dict a layer and direction."""
    cells = [layer.params] if isinstance(layer.params, Mapping) else layer.params
    return [{name: arrays.to_numpy(array).copy() for name, array in cell.items()} for cell in cells]


def write(layer: Weighted, cells: list[dict[str, np.ndarray]]) -> None:
    """Set its parameters, converted to the type that it holds."""
    layer.params = cells
