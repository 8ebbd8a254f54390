"""The layout in which weights travel: what `Spec.parameter_shapes` says, as NumPy arrays of one type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from gapcell import arrays
from gapcell.spec import Spec

__all__ = ["TYPES", "Cell", "Params", "checked", "names", "regular", "together"]

Cell: TypeAlias = dict[str, np.ndarray]
Params: TypeAlias = Cell | list[Cell]

TYPES = ("float16", "float32", "float64")


def names(spec: Spec) -> list[str]:
    """What nn.LSTM appends to the name of a parameter, for each layer and direction: l0, l0_reverse, l1, ..."""
    return [f"l{index}{suffix}" for index in range(spec.num_layers) for suffix in ("", "_reverse")[: spec.directions]]


def together(cells: list[Cell]) -> Params:
    """One dict, or for several layers or directions the list of them."""
    return cells if len(cells) > 1 else cells[0]


def checked(params: Mapping[str, Any] | Sequence[Mapping[str, Any]], spec: Spec) -> list[Cell]:
    """The parameters of a Spec as NumPy arrays, a dict a layer and direction.

    Args:
        params: one dict, or a list of them in nn.LSTM's order; arrays of NumPy, PyTorch, JAX, Keras or TensorFlow.
        spec: of the layers.

    Raises:
        ValueError: names, shapes, types or values are not those of a layer of this Spec.
    """
    if not isinstance(spec, Spec):
        raise ValueError(f"`spec` is a {type(spec).__name__}, expected a gapcell.Spec; weights.of(layer) gives both")
    given = [params] if isinstance(params, Mapping) else list(params)
    count = spec.num_layers * spec.directions
    if len(given) != count or not all(isinstance(cell, Mapping) for cell in given):
        kinds = ", ".join(sorted({type(cell).__name__ for cell in given}))
        raise ValueError(
            f"`params` has {len(given)} entries ({kinds}), expected {count} dicts: one a layer and direction, in "
            "nn.LSTM's order"
        )
    cells = [_cell(cell, spec.parameter_shapes(slot // spec.directions), slot) for slot, cell in enumerate(given)]
    types = sorted({array.dtype.name for cell in cells for array in cell.values()})
    if len(types) > 1:
        raise ValueError(f"`params` have types {', '.join(types)}, expected one type for all; convert them to one")
    return cells


def _cell(given: Mapping[str, Any], wanted: dict[str, tuple[int, ...]], slot: int) -> Cell:
    if set(given) != set(wanted):
        raise ValueError(f"`params[{slot}]` has {sorted(map(str, given))}, expected {sorted(wanted)} for this Spec")
    cell = {}
    for name, shape in wanted.items():
        array = arrays.to_numpy(given[name])
        if array.shape != shape:
            raise ValueError(f"`params[{slot}]`: {name} has shape {array.shape}, expected {shape} for this Spec")
        if array.dtype.name not in TYPES:
            raise ValueError(f"`params[{slot}]`: {name} has type {array.dtype}, expected one of {', '.join(TYPES)}")
        if not np.isfinite(array).all():
            raise ValueError(
                f"`params[{slot}]`: {name} has values that are NaN or infinite, expected finite ones: such a layer "
                "gives NaN whatever it reads; go back to weights from before the training diverged"
            )
        cell[name] = array
    return cell


def regular(blocks: np.ndarray, order: str) -> np.ndarray:
    """The gates along the last axis in the order i, f, g, o.

    Args:
        blocks: (..., 4F).
        order: the letters of the gates in the order in which they stand.
    """
    gates = dict(zip(order, np.split(blocks, 4, axis=-1), strict=True))
    return np.concatenate([gates[letter] for letter in "ifgo"], axis=-1)
