"""Parameters of a layer, or of both directions, as NumPy arrays, and back; for `gapcell.weights`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np

from gapcell import arrays
from gapcell.keras.conv_rnn import ConvRNN
from gapcell.spec import Spec

__all__ = ["read", "spec_of", "write"]


def spec_of(layer: ConvRNN | keras.layers.Bidirectional) -> Spec:
    """The Spec of a layer, or of Bidirectional around one, whose outputs are concatenated.

    Raises:
        ValueError: it is not built, its activations are others than a Spec has, or its directions differ.
    """
    if isinstance(layer, ConvRNN):
        return _spec_of_one(layer)
    if layer.merge_mode != "concat":
        raise ValueError(
            f"`layer` has merge_mode={layer.merge_mode!r}, expected 'concat', the only one that a Spec has; take its "
            "forward_layer and backward_layer one by one"
        )
    ahead, back = _spec_of_one(layer.forward_layer), _spec_of_one(layer.backward_layer)
    if back != replace(ahead, go_backwards=True):
        raise ValueError(
            "`layer` has a backward_layer of another kind than its forward_layer, which one Spec cannot say; take them "
            "one by one"
        )
    return replace(ahead, bidirectional=True)


def read(layer: ConvRNN | keras.layers.Bidirectional) -> list[dict[str, np.ndarray]]:
    """Copies of its parameters, a dict a direction."""
    return [{name: arrays.to_numpy(weight).copy() for name, weight in cell.items()} for cell in _cells(layer)]


def write(layer: ConvRNN | keras.layers.Bidirectional, cells: list[dict[str, np.ndarray]]) -> None:
    """Set its parameters, converted to the type that it holds."""
    for cell, given in zip(_cells(layer), cells, strict=True):
        for name, weight in cell.items():
            weight.assign(given[name])


def _spec_of_one(layer: ConvRNN) -> Spec:
    if not layer.cell.built:
        raise ValueError(
            f"`layer` ({layer.name!r}) is not built and has no weights yet; call it once, or layer.build(input_shape)"
        )
    if layer.cell.activations is not None:
        config = layer.cell.get_config()
        raise ValueError(
            f"`layer` ({layer.name!r}) has activation={config['activation']!r} and recurrent_activation="
            f"{config['recurrent_activation']!r}, expected 'tanh' and 'sigmoid', the only ones that a Spec has"
        )
    # Not what `return_sequences` makes of it: that changes which outputs are returned, not which there are.
    output = "zero" if layer.zero_output_for_mask else "hold"
    return replace(layer.cell.spec, go_backwards=layer.go_backwards, masked_output=output)


def _cells(layer: ConvRNN | keras.layers.Bidirectional) -> list[dict[str, Any]]:
    directions = [layer] if isinstance(layer, ConvRNN) else [layer.forward_layer, layer.backward_layer]
    names = directions[0].cell.spec.parameter_shapes()
    return [{name: getattr(direction.cell, name) for name in names} for direction in directions]
