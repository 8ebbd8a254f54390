"""A layer at every step of a sequence, under its step's mask."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from gapcell import arrays, masks
from gapcell.keras import selection

__all__ = ["TimeDistributed"]

Tensor = Any


@keras.saving.register_keras_serializable(package="gapcell")
class TimeDistributed(keras.layers.TimeDistributed):
    r"""keras.layers.TimeDistributed that runs its layer once, over samples and steps together, and keeps the mask.

    The layer reads (N T, ...). What is masked is 0 before it comes to the layer, so that NaN there reaches neither a
    value nor a gradient, and a step without anything observed is 0 in the output and masked. A layer that takes a mask
    gets that of its step: (N T,), (N T, \*S) or the shape of its input; one of keras.layers' own gets one of sites
    only, as it could not read the others. The mask of the output is that of the layer, (N, T, \*S'), or else that of
    the steps.

    Args:
        layer: any layer or model of one input, of keras.layers, of this package or a user's own.
        kwargs: of keras.layers.Layer.
    """

    def call(
        self,
        inputs: Tensor,
        training: bool | None = None,
        mask: Tensor | None = None,
        *,
        domain: Tensor | None = None,
        inputs_mask: Tensor | None = None,  # Keras's name for the mask that `inputs` carries, beside other tensors
    ) -> Tensor:
        """Run the layer at every step.

        Args:
            inputs: (N, T, ...).
            training: as in keras.layers.TimeDistributed.
            mask: what is observed.
            domain: (N, *S) or (*S,), which sites exist, for a layer of this package that takes it.
            inputs_mask: goes behind `mask`.
        """
        mask = inputs_mask if mask is None else mask
        sizes = arrays.shape(inputs)
        said = {} if domain is None else {"domain": self._at_every_step(domain, inputs)}
        if mask is None:
            outputs = self.layer(_folded(inputs), **said)  # Keras hands `training` on
            kept = selection.carried(outputs)
            return selection.carry(_unfolded(outputs, sizes), None if kept is None else _unfolded(kept, sizes))
        first = getattr(self.layer, "data_format", None) == "channels_first"
        seen = selection.by_step(selection.observed(mask, inputs, 2 if first else -1), inputs)
        whole = len(seen.shape) == len(inputs.shape)
        inputs = selection.select(selection.over(seen, len(inputs.shape), 2 if first else -1), inputs)
        frames, seen = _folded(inputs), _folded(seen)
        steps = ops.any(seen, list(range(1, len(seen.shape)))) if len(seen.shape) > 1 else seen
        outputs, kept = self._run(frames, ops.moveaxis(seen, -1, 1) if whole and first else seen, training, said)
        ndim = len(outputs.shape)
        kept = steps if kept is None else kept & masks.expand(steps, len(kept.shape))
        over = kept if len(kept.shape) == ndim else selection.over(kept, ndim, 1 if first else -1)
        outputs = selection.select(over, outputs)
        return selection.carry(_unfolded(outputs, sizes), _unfolded(kept, sizes))

    def compute_mask(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """What a functional model records of a mask of steps; `call` says what the mask of the output is."""
        return None if mask is None or len(mask.shape) > 2 else mask

    def _at_every_step(self, domain: Tensor, inputs: Tensor) -> Tensor:
        """(N, *S) as (N T, *S); (*S,) as it is."""
        if len(domain.shape) < len(inputs.shape) - 2:
            return domain
        domain = arrays.same_kind(domain, inputs)
        return _folded(ops.broadcast_to(domain[:, None], (*arrays.shape(inputs)[:2], *arrays.shape(domain)[1:])))

    def _run(
        self, frames: Tensor, seen: Tensor, training: bool | None, said: dict[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        """The layer's output, and the mask that it hands on."""
        layer = self.layer
        if _reads(layer, frames, seen):
            if layer.supports_masking:
                outputs = layer(frames, mask=seen, **said)
            else:
                # As Keras runs it here: `__call__` warns of a mask that is dropped, also by a model that keeps it.
                said = said | ({"training": training} if layer._call_has_training_arg else {})
                outputs = layer.call(frames, mask=seen, **said)
            return outputs, selection.carried(outputs)
        outputs = layer(frames, **said)
        if not layer.supports_masking:
            return outputs, None
        kept = selection.places(seen, len(frames.shape))
        fits = arrays.equal_sizes(tuple(kept.shape), tuple(outputs.shape)[: len(kept.shape)])
        return outputs, kept if fits and len(kept.shape) < len(outputs.shape) else None


def _reads(layer: keras.layers.Layer, frames: Tensor, mask: Tensor) -> bool:
    """Whether the layer takes this mask: (M,), (M, *S) or elements."""
    if not layer._call_has_mask_arg:
        return False
    keras_own = type(layer).__module__.partition(".")[0] == "keras" and not isinstance(layer, keras.Model)
    # keras.layers' own know masks of sites only, and Softmax one of elements.
    return not keras_own or 1 < len(mask.shape) == len(frames.shape) - 1


def _folded(x: Tensor) -> Tensor:
    """(N, T, ...) as (N T, ...)."""
    return ops.reshape(x, (-1, *arrays.shape(x)[2:]))


def _unfolded(x: Tensor, sizes: tuple[Any, ...]) -> Tensor:
    """The way back, to the samples and steps of `sizes`."""
    return ops.reshape(x, (*sizes[:2], *arrays.shape(x)[1:]))
