"""Parameters of a layer in the canonical layout, and back; for `gapcell.weights`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from gapcell import arrays
from gapcell.spec import Spec
from gapcell.torch.layers import ConvRNN
from gapcell.torch.stack import Parameters

__all__ = ["read", "spec_of", "write"]

_NAMES = ("kernel", "recurrent_kernel", "bias", "recurrent_bias", "decay")  # of Spec, in the order of Parameters


def spec_of(layer: ConvRNN) -> Spec:
    """The Spec of a layer."""
    return layer.spec


def read(layer: ConvRNN) -> list[dict[str, np.ndarray]]:
    """Copies of its parameters, a dict a layer and direction."""
    return [
        {name: _channels_last(arrays.to_numpy(parameter)).copy() for name, parameter in cell.items()}
        for cell in _cells(layer)
    ]


def write(layer: ConvRNN, cells: list[dict[str, np.ndarray]]) -> None:
    """Set its parameters in place, converted to their type and device.

    Raises:
        ValueError: what it computes with is made of others (torch.nn.utils.parametrize, pruning).
    """
    held = list(_cells(layer))
    if not all(isinstance(parameter, torch.nn.Parameter) for cell in held for parameter in cell.values()):
        raise ValueError(
            "`layer` computes its weights from others (parametrized or pruned), expected plain parameters; "
            "remove_parametrizations or prune.remove first"
        )
    with torch.no_grad():
        for cell, given in zip(held, cells, strict=True):
            for name, parameter in cell.items():
                parameter.copy_(torch.tensor(_channels_first(given[name])))


def _cells(layer: ConvRNN) -> Iterator[dict[str, Tensor]]:
    """The parameters by the names of Spec, of each layer and direction in nn.LSTM's order."""
    for index in range(layer.spec.num_layers):
        for suffix in layer._suffixes(index):
            held: Parameters = layer._parameters_of(suffix)
            named = zip(_NAMES, held, strict=True)
            yield {name: parameter for name, parameter in named if parameter is not None}


def _channels_last(array: np.ndarray) -> np.ndarray:
    """A kernel (4F, C, *k) as (*k, C, 4F); a vector as it is."""
    return array if array.ndim == 1 else np.moveaxis(array, (1, 0), (-2, -1))


def _channels_first(array: np.ndarray) -> np.ndarray:
    """A kernel (*k, C, 4F) as (4F, C, *k); a vector as it is."""
    return array if array.ndim == 1 else np.moveaxis(array, (-1, -2), (0, 1))
