"""Layers that make a mask, and that change what it covers."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

__all__ = ["MaskNaN", "SiteMask", "StepMask"]

Tensor = Any


@keras.saving.register_keras_serializable(package="gapcell")
class MaskNaN(keras.layers.Layer):
    r"""Masks what is NaN, which keras.layers.Masking(nan) does not: nothing equals NaN.

    The output is the input with 0 for NaN; its mask is True where any channel holds a value, as Masking's is: (N, S)
    for a series (N, S, C), (N, T, \*S) for an input with sites. A channel that is NaN beside others reads as 0, exactly
    as under a mask of elements. Where the input carries a mask already, of steps or of this shape, both must agree.

    Args:
        axis: of the channels; -1, or 2 for channels_first.
        kwargs: of keras.layers.Layer.
    """

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = axis
        self.supports_masking = True

    def call(self, inputs: Tensor) -> Tensor:
        """The input with 0 for NaN."""
        return ops.where(ops.isnan(inputs), ops.zeros((), inputs.dtype), inputs)

    def compute_mask(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """True where any channel holds a value."""
        found = ops.any(ops.logical_not(ops.isnan(inputs)), axis=self.axis)
        if mask is None:
            return found
        return ops.logical_and(found, _leading(ops.cast(mask, "bool"), len(found.shape)))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """That of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Every argument, for `from_config`."""
        return {**super().get_config(), "axis": self.axis}


def _leading(mask: Tensor, ndim: int) -> Tensor:
    """The mask with axes of size 1 behind."""
    for _ in range(ndim - len(mask.shape)):
        mask = ops.expand_dims(mask, -1)
    return mask


@keras.saving.register_keras_serializable(package="gapcell")
class StepMask(keras.layers.Layer):
    r"""Hands on a mask of sites or values as one of steps: True where anything of a step is observed.

    The output is the input. Put it before layers that know steps only, such as TimeDistributed(Flatten()) and
    keras.layers.LSTM.

    Args:
        kwargs: of keras.layers.Layer.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs: Tensor) -> Tensor:
        """The input; a copy, as Keras leaves a tensor the mask that it has."""
        return ops.copy(inputs)

    def compute_mask(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """(N, T), whatever the rank of `mask`."""
        if mask is None or len(mask.shape) == 2:
            return mask
        return ops.any(ops.cast(mask, "bool"), axis=list(range(2, len(mask.shape))))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """That of the input."""
        return input_shape


@keras.saving.register_keras_serializable(package="gapcell")
class SiteMask(keras.layers.Layer):
    r"""Hands on a mask of steps as one of sites, which a loss of an output (N, T, \*S, F) needs.

    The output is the input. Keras multiplies the loss (N, T, \*S) by the mask, which for a mask (N, T) fails, or where
    N, T and the sites are alike gives a wrong loss.

    Args:
        axis: of the channels; -1, or 2 for channels_first.
        kwargs: of keras.layers.Layer.
    """

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = axis
        self.supports_masking = True

    def call(self, inputs: Tensor) -> Tensor:
        """The input; a copy, as Keras leaves a tensor the mask that it has."""
        return ops.copy(inputs)

    def compute_mask(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor | None:
        r"""(N, T, \*S): the mask of steps at every site, or one of sites as it is."""
        if mask is None:
            return None
        somewhere = ops.ones_like(ops.take(inputs, 0, axis=self.axis), dtype="bool")
        return ops.logical_and(_leading(ops.cast(mask, "bool"), len(somewhere.shape)), somewhere)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """That of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Every argument, for `from_config`."""
        return {**super().get_config(), "axis": self.axis}
