"""Both directions, with what keras.layers.Bidirectional does not hand on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from gapcell.keras.conv_rnn import ConvRNN

__all__ = ["Bidirectional"]

Tensor = Any

_MERGES: dict[str | None, Callable[[Tensor, Tensor, int], tuple[Tensor, ...]]] = {
    "concat": lambda ahead, back, axis: (ops.concatenate([ahead, back], axis=axis),),
    "sum": lambda ahead, back, _: (ahead + back,),
    "ave": lambda ahead, back, _: ((ahead + back) / 2,),
    "mul": lambda ahead, back, _: (ahead * back,),
    None: lambda ahead, back, _: (ahead, back),
}


@keras.saving.register_keras_serializable(package="gapcell")
class Bidirectional(keras.layers.Bidirectional):
    """keras.layers.Bidirectional for the layers of this package; arguments are those of Keras's own.

    It takes `lengths`, `domain` and `dt`, concatenates on the channel axis also with channels_first, and hands on the
    mask of its layer's output. Keras's own hands on the mask of the input, which is the same for a mask of steps; of
    sites it is another one where strides or "valid" leave fewer, and of elements always.

    Raises:
        ValueError: the layer is none of this package's; use keras.layers.Bidirectional for others.
    """

    def __init__(self, layer: ConvRNN, *args: Any, **kwargs: Any) -> None:
        if not isinstance(layer, ConvRNN):
            raise ValueError(
                f"`layer` is a {type(layer).__name__}, expected a ConvLSTM or ConvGRU layer of gapcell.keras; for "
                "other layers use keras.layers.Bidirectional"
            )
        super().__init__(layer, *args, **kwargs)

    def call(
        self,
        sequences: Tensor,
        initial_state: Any = None,
        mask: Tensor | None = None,
        training: bool | None = None,
        *,
        lengths: Tensor | None = None,
        domain: Tensor | None = None,
        dt: Tensor | None = None,
        sequences_mask: Tensor | None = None,
    ) -> Any:
        """Run both directions; arguments as in keras.layers.Bidirectional, and of ConvRNN's call."""
        states = (None, None)
        if initial_state is not None:
            half = len(initial_state) // 2
            states = (initial_state[:half], initial_state[half:])
        said = {
            "mask": sequences_mask if mask is None else mask,
            "training": bool(training),
            "lengths": lengths,
            "domain": domain,
            "dt": dt,
        }
        (ahead, *last), (back, *last_back) = (
            keras.tree.flatten(layer(sequences, initial_state=state, **said))
            for layer, state in zip((self.forward_layer, self.backward_layer), states, strict=True)
        )
        if self.return_sequences:
            back = ops.flip(back, axis=1)
        outputs = (*_MERGES[self.merge_mode](ahead, back, self._channel_axis), *last, *last_back)
        return outputs if len(outputs) > 1 else outputs[0]

    @property
    def _channel_axis(self) -> int:
        first = self.forward_layer.data_format == "channels_first" and self.forward_layer.window is None
        return (2 if self.return_sequences else 1) if first else -1

    def compute_output_shape(self, sequences_shape: Any, initial_state_shape: Any = None) -> Any:
        """The shapes of what `call` returns."""
        found = self.forward_layer.compute_output_shape(sequences_shape)
        output, *states = found if self.return_state else (found,)
        merged = list(output)
        if self.merge_mode == "concat":
            merged[self._channel_axis] *= 2
        outputs = (*([tuple(merged)] if self.merge_mode else [output, output]), *states, *states)
        return outputs if len(outputs) > 1 else outputs[0]

    def compute_mask(self, _: Tensor, mask: Any = None) -> Any:
        """The mask of the output, for each tensor that the layer returns."""
        found = self.forward_layer.compute_mask(_, mask)
        found = found[0] if isinstance(found, list | tuple) else found
        outputs = [found] if self.merge_mode else [found, found]
        if self.return_state:
            outputs += [None] * 2 * self.forward_layer.state_count
        return outputs if len(outputs) > 1 else found
