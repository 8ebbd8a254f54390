"""Layers that make a mask, and that obey one, where Keras's own do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

__all__ = ["BatchNormalization", "Bidirectional", "MaskNaN"]

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


@keras.saving.register_keras_serializable(package="gapcell")
class BatchNormalization(keras.layers.BatchNormalization):
    r"""keras.layers.BatchNormalization that takes every mask which this package's layers hand on.

    Keras's own raises in training behind a masked ConvLSTM: it wants a mask of one axis less than the input. Here a
    mask (N, T) or (N, T, \*S) counts what it covers; what is masked does not enter the moments. Channels are last
    (axis=-1), or on any axis with a mask of steps.
    """

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        """Normalise; arguments as in keras.layers.BatchNormalization."""
        if mask is not None:
            ndim = len(inputs.shape)
            last = self.axis in (-1, ndim - 1)
            if len(mask.shape) >= ndim or (not last and len(mask.shape) > 2):
                raise ValueError(
                    f"`mask` has shape {tuple(mask.shape)}, but the input has shape {tuple(inputs.shape)} with its "
                    f"channels on axis {self.axis}: expected the leading axes of the input before its channels"
                )
            mask = _leading(mask, ndim - 1)
        return super().call(inputs, training=training, mask=mask)


def _leading(mask: Tensor, ndim: int) -> Tensor:
    """The mask with axes of size 1 behind."""
    for _ in range(ndim - len(mask.shape)):
        mask = ops.expand_dims(mask, -1)
    return mask


_MERGES: dict[str | None, Callable[[Tensor, Tensor], tuple[Tensor, ...]]] = {
    "concat": lambda ahead, back: (ops.concatenate([ahead, back], axis=-1),),
    "sum": lambda ahead, back: (ahead + back,),
    "ave": lambda ahead, back: ((ahead + back) / 2,),
    "mul": lambda ahead, back: (ahead * back,),
    None: lambda ahead, back: (ahead, back),
}


@keras.saving.register_keras_serializable(package="gapcell")
class Bidirectional(keras.layers.Bidirectional):
    """keras.layers.Bidirectional that takes `lengths` and `domain`, and hands on the mask of its layer's output.

    Keras's own hands on the mask of the input, which is the same for a mask of steps; of sites it is another one where
    strides or "valid" leave fewer, and of elements always. Arguments are those of keras.layers.Bidirectional; it wraps
    the layers of this package.
    """

    def call(
        self,
        sequences: Tensor,
        initial_state: Any = None,
        mask: Tensor | None = None,
        training: bool | None = None,
        *,
        lengths: Tensor | None = None,
        domain: Tensor | None = None,
    ) -> Any:
        """Run both directions; arguments as in keras.layers.Bidirectional, and of ConvRNN's call."""
        states = (None, None)
        if initial_state is not None:
            half = len(initial_state) // 2
            states = (initial_state[:half], initial_state[half:])
        said = {"mask": mask, "training": bool(training), "lengths": lengths, "domain": domain}
        (ahead, *last), (back, *last_back) = (
            keras.tree.flatten(layer(sequences, initial_state=state, **said))
            for layer, state in zip((self.forward_layer, self.backward_layer), states, strict=True)
        )
        if self.return_sequences:
            back = ops.flip(back, axis=1)
        outputs = (*_MERGES[self.merge_mode](ahead, back), *last, *last_back)
        return outputs if len(outputs) > 1 else outputs[0]

    def compute_mask(self, _: Tensor, mask: Any = None) -> Any:
        """The mask of the output, for each tensor that the layer returns."""
        found = self.forward_layer.compute_mask(_, mask)
        found = found[0] if isinstance(found, list | tuple) else found
        outputs = [found] if self.merge_mode else [found, found]
        if self.return_state:
            outputs += [None] * 2 * self.forward_layer.state_count
        return outputs if len(outputs) > 1 else found
