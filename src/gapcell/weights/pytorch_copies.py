"""The ConvLSTM that is copied from repository to repository in PyTorch: one convolution on cat([x, h])."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from gapcell import arrays
from gapcell.spec import Spec
from gapcell.weights import canonical
from gapcell.weights.canonical import Cell, Params

__all__ = ["from_pytorch"]

_SITE_AXES = (1, 2, 3)


def from_pytorch(state_dict: Mapping[str, Any], *, prefix: str = "", gates: str = "ifog") -> tuple[Params, Spec]:
    """The parameters and Spec of a ConvLSTM with one convolution on cat([x, h]), as ndrplz/ConvLSTM_pytorch has it.

    Args:
        state_dict: of the module; one `weight` (4F, C+F, *k), and maybe `bias` (4F,), a layer, the layers told apart
            by a number (cell_list.0.conv.weight, cell_list.1.conv.weight, ...). Read a file by
            torch.load(path, weights_only=True) or safetensors.
        prefix: what the names of this module's entries begin with, such as "encoder.convlstm."; others are left out.
        gates: the order in which the module splits the convolution's channels; no state_dict tells.

    Returns:
        params in the canonical layout, and the Spec of gapcell.torch's layers: "same", stride 1, as many layers.

    Raises:
        ValueError: other entries than these (peepholes, normalisation), sizes that differ from layer to layer, or
            kernels of even size, which such a module cannot run.
    """
    if sorted(gates) != sorted("ifog"):
        raise ValueError(f"`gates` is {gates!r}, expected the letters i, f, o, g in the order of the module's split")
    layers = [_layer(name, entries, gates) for name, entries in _entries(state_dict, prefix).items()]
    spec = _spec(layers)
    return canonical.together(canonical.checked(layers, spec)), spec


def _entries(state_dict: Mapping[str, Any], prefix: str) -> dict[str, dict[str, np.ndarray]]:
    """The weight and bias of each layer, in order."""
    found: dict[str, dict[str, np.ndarray]] = {}
    others = []
    for name, values in state_dict.items():
        if not name.startswith(prefix):
            continue
        owner, _, kind = name.removeprefix(prefix).rpartition(".")
        if kind in ("weight", "bias"):
            found.setdefault(owner, {})[kind] = arrays.to_numpy(values)
        else:
            others.append(name)
    others += [f"{prefix}{owner}.bias" for owner, entries in found.items() if "weight" not in entries]
    patterns = {re.sub(r"\d+", "#", owner) for owner in found}
    if others or len(patterns) != 1:
        listed = ", ".join(map(repr, sorted(others or found)[:6])) or "nothing"
        raise ValueError(
            f"`state_dict` has {listed} under the prefix {prefix!r}, expected one `weight` and at most one `bias` a "
            "layer, the layers told apart by a number (cell_list.0.conv.weight, ...); choose the module by prefix=. "
            "Peepholes and normalisation inside the recurrence have no place in gapcell's layers"
        )
    return {owner: found[owner] for owner in sorted(found, key=lambda owner: list(map(int, re.findall(r"\d+", owner))))}


def _layer(name: str, entries: dict[str, np.ndarray], gates: str) -> Cell:
    weight = entries["weight"]
    filters = weight.shape[0] // 4
    if weight.ndim - 2 not in _SITE_AXES or weight.shape[0] != 4 * filters or not 0 < filters < weight.shape[1]:
        raise ValueError(
            f"`state_dict`: {name}.weight has shape {weight.shape}, expected (4F, C+F, *k), a convolution on "
            "cat([x, h]) for four gates"
        )
    if any(size % 2 == 0 for size in weight.shape[2:]):
        raise ValueError(
            f"`state_dict`: {name}.weight has a kernel of {weight.shape[2:]}, expected odd sizes: padded by k//2 on "
            "both sides, an even one makes more sites than the state has"
        )
    last = np.moveaxis(weight, (1, 0), (-2, -1))
    channels = weight.shape[1] - filters
    parts = {"kernel": last[..., :channels, :], "recurrent_kernel": last[..., channels:, :]}
    if "bias" in entries:
        parts["bias"] = entries["bias"]
    return {part: canonical.regular(values, gates) for part, values in parts.items()}


def _spec(layers: list[Cell]) -> Spec:
    """The Spec of the first layer, as many times as there are layers."""
    first = layers[0]
    *sizes, channels, width = first["kernel"].shape
    spec = Spec(
        rank=len(sizes), in_channels=channels, filters=width // 4, kernel_size=tuple(sizes), bias="bias" in first,
        num_layers=len(layers),
    )  # fmt: skip
    for index, layer in enumerate(layers):
        shapes = {name: values.shape for name, values in layer.items()}
        if shapes != spec.parameter_shapes(index):
            raise ValueError(
                f"`state_dict`: layer {index} has parameters of {shapes}, expected {spec.parameter_shapes(index)} as "
                "the first layer has them: the layers of a Spec are of one size; take them one by one with prefix="
            )
    return spec
