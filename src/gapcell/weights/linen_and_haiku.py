"""The ConvLSTM cells of flax linen and dm-haiku: two convolutions with a bias each, gates in the order i, g, f, o.

Both add 1 to the forget gate when they run. Our layers add nothing, so the 1 goes into the bias.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gapcell import arrays
from gapcell.spec import Spec
from gapcell.weights import canonical
from gapcell.weights.canonical import Cell, Params

__all__ = ["from_flax", "from_haiku"]

_FORGET_OFFSET = 1.0


def from_flax(params: Mapping[str, Any], *, name: str | None = None, cell: Any = None) -> tuple[Params, Spec]:
    """The parameters and Spec of a flax.linen.ConvLSTMCell; flax nnx has no such cell of its own.

    Args:
        params: of the cell, {"ih": {"kernel", "bias"}, "hh": {"kernel", "bias"}}, or a tree that has them inside.
        name: where in the tree, such as "params/ConvLSTMCell_0"; needed where there are several.
        cell: the flax.linen.ConvLSTMCell, whose padding and strides are not in its parameters; None: "SAME" and 1.

    Returns:
        params in the canonical layout, and the Spec.

    Raises:
        ValueError: there are no such parameters, or the cell's padding or strides are others than gapcell's.
    """
    found = dict(_linen_cells(params, ()))
    given = _chosen(found, name, "params", '{"ih": ..., "hh": ...} of flax.linen.ConvLSTMCell')
    cells = _cells(*(_renamed(given[part], ("kernel", "bias"), f"params[{part!r}]") for part in ("ih", "hh")))
    spec = _spec(cells, causal=_is_causal(cell, len(cells["kernel"].shape) - 2))
    if cell is not None and cell.features != spec.filters:
        raise ValueError(f"`cell` has features={cell.features}, but its `params` have {spec.filters}")
    return canonical.checked([cells], spec)[0], spec


def from_haiku(params: Mapping[str, Any], *, name: str | None = None) -> tuple[Params, Spec]:
    """The parameters and Spec of a haiku.Conv1DLSTM, Conv2DLSTM or Conv3DLSTM.

    Args:
        params: as haiku's init gives them: {"conv2_dlstm/input_to_hidden": {"w", "b"}, ...}, maybe among others.
        name: of the module, such as "conv2_dlstm"; needed where there are several.

    Returns:
        params in the canonical layout, and the Spec.

    Raises:
        ValueError: there are no such parameters.
    """
    parts = ("input_to_hidden", "hidden_to_hidden")
    owners = sorted({owner for owner, _, part in (each.rpartition("/") for each in params) if part in parts})
    found = {owner: [params.get(f"{owner}/{part}") for part in parts] for owner in owners}
    given = _chosen(found, name, "params", "the parameters of haiku.Conv1DLSTM, Conv2DLSTM or Conv3DLSTM")
    cells = _cells(
        *(_renamed(each, ("w", "b"), f"params[.../{part}]") for part, each in zip(parts, given, strict=True))
    )
    spec = _spec(cells)
    return canonical.checked([cells], spec)[0], spec


def _linen_cells(tree: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The parameters of every cell in a tree, by its place."""
    if set(tree) == {"ih", "hh"}:
        yield "/".join(path), tree
        return
    for key, inner in tree.items():
        if isinstance(inner, Mapping):
            yield from _linen_cells(inner, (*path, str(key)))


def _chosen(found: dict[str, Any], name: str | None, argument: str, wanted: str) -> Any:
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name in found:
        return found[name]
    there = ", ".join(map(repr, found)) or "none"
    raise ValueError(f"`{argument}` has {wanted} under {there}; `name` is {name!r}, expected one of them")


def _renamed(given: Any, names: tuple[str, str], where: str) -> Cell:
    """The kernel, and if there is one the bias, of one convolution."""
    if not isinstance(given, Mapping) or not {names[0]} <= set(given) <= set(names):
        held = sorted(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
        raise ValueError(f"`{where}` has {held}, expected {names[0]!r} and maybe {names[1]!r}")
    return {
        ours: arrays.to_numpy(given[name])
        for ours, name in zip(("kernel", "bias"), names, strict=True)
        if name in given
    }


def _cells(ih: Cell, hh: Cell) -> Cell:
    """One dict of the two convolutions: regular gates, one bias."""
    kernel, recurrent = ih["kernel"], hh["kernel"]
    width = kernel.shape[-1]
    if kernel.ndim not in (3, 4, 5) or width % 4 or recurrent.shape != (*kernel.shape[:-2], width // 4, width):
        raise ValueError(
            f"`params` have kernels {kernel.shape} and {recurrent.shape}, expected (*k, C, 4F) and (*k, F, 4F)"
        )
    biases = [part["bias"].astype(np.float64) for part in (ih, hh) if "bias" in part]
    offset = np.repeat([0.0, 0.0, _FORGET_OFFSET, 0.0], width // 4)  # i, g, f, o
    bias = sum(biases, offset).astype(kernel.dtype)
    named = {"kernel": kernel, "recurrent_kernel": recurrent, "bias": bias}
    return {name: canonical.regular(values, "igfo") for name, values in named.items()}


def _spec(cells: Cell, causal: bool = False) -> Spec:
    *sizes, channels, width = cells["kernel"].shape
    return Spec(rank=len(sizes), in_channels=channels, filters=width // 4, kernel_size=tuple(sizes), causal=causal)


def _is_causal(cell: Any, rank: int) -> bool:
    """Whether a linen cell looks back only; other convolutions than "same" are refused."""
    if cell is None:
        return False
    strides = (cell.strides,) if isinstance(cell.strides, int) else tuple(cell.strides or (1,))
    if set(strides) != {1}:
        raise ValueError(
            f"`cell` has strides={cell.strides}, expected 1: its strides also act in the recurrent convolution, which "
            "shrinks the state with every step"
        )
    if cell.padding not in ("SAME", "CAUSAL") or (cell.padding == "CAUSAL" and rank != 1):
        raise ValueError(
            f"`cell` has padding={cell.padding!r}, expected 'SAME', or for one site axis 'CAUSAL': gapcell's recurrent "
            "convolution keeps every site"
        )
    return cell.padding == "CAUSAL"
