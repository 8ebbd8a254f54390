"""Keras's layer or ours, for whichever backend the process has."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from benchmarks.shapes import Shape


def make_layer(package: ModuleType, shape: Shape) -> Any:
    """A built ConvLSTM of `keras.layers` or `gapcell.keras`, which returns its state where steps are streamed."""
    layer = getattr(package, f"ConvLSTM{shape.rank}D")(
        shape.filters, shape.kernel, padding="same", return_sequences=True, return_state=bool(shape.calls)
    )
    layer.build(shape.input_shape)
    return layer
