"""What a mask of Keras's protocol selects of an array of frames, and the masks that tensors carry.

A frame is one sample without a step axis of its own: (N, *S, C). A mask of it has the leading axes of the array without
its channels, so that (N,) covers samples, (N, *S) sites, and of a sequence (N, T, *S, C) a mask (N, T) covers steps; or
it has the array's shape and covers elements (docs/semantics.md, section 1).
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from keras.src import backend  # its get_keras_mask is all that knows where JAX's traced arrays keep theirs

from gapcell import arrays, masks

__all__ = ["as_bool", "by_step", "carried", "carry", "observed", "over", "places", "select"]

Tensor = Any


def carried(x: Tensor) -> Tensor | None:
    """The mask that a tensor carries."""
    return backend.get_keras_mask(x)


def carry(x: Tensor, mask: Tensor | None) -> Tensor:
    """The tensor with a mask for the next layer."""
    if mask is not None:
        backend.set_keras_mask(x, mask)
    return x


def observed(mask: Tensor, x: Tensor, channel_axis: int = -1, name: str = "mask") -> Tensor:
    """A caller's mask as bool, checked against the array that it covers.

    Args:
        mask: bool, integer, or float 0/1, NaN meaning "not observed": the leading axes of x without its channels, or
            the shape of x.
        x: the array.
        channel_axis: where x has its channels.
        name: of the mask, for the refusal.

    Returns:
        bool of the mask's own shape; of elements with the channels last.

    Raises:
        ValueError: rank or sizes do not fit exactly, or a concrete value is neither 0, 1 nor NaN.
    """
    mask, shape = arrays.same_kind(mask, x), tuple(x.shape)
    channel_axis %= len(shape)
    whole = len(mask.shape) == len(shape)
    wanted = shape if whole else (shape[:channel_axis] + shape[channel_axis + 1 :])[: len(mask.shape)]
    if not mask.shape or not arrays.equal_sizes(wanted, tuple(mask.shape)):
        axes = shape[:channel_axis] + shape[channel_axis + 1 :]
        expected = [str(axes[:rank]) for rank in range(1, len(axes) + 1)]
        raise ValueError(
            f"`{name}` has shape {tuple(mask.shape)}, but the input has shape {shape}: expected "
            f"{', '.join(expected)} or {shape}; a mask is matched exactly and never broadcast"
        )
    # Sizes fit: what is left to `resolve` is the type and the values.
    mask = masks.resolve(mask, (*arrays.shape(mask), 1))
    if keras.backend.backend() == "tensorflow":
        from gapcell.keras.on_tensorflow import of_size  # only TensorFlow's graphs have sizes that are not known

        sizes = arrays.shape(x)
        mask = of_size(mask, sizes if whole else sizes[:channel_axis] + sizes[channel_axis + 1 :])
    return arrays.move_axis(mask, channel_axis, -1) if whole else mask


def over(mask: Tensor, ndim: int, channel_axis: int = -1) -> Tensor:
    """The mask (elements: channels last) with axes of size 1, so that it selects from an array of `ndim` axes."""
    if len(mask.shape) == ndim:
        return ops.moveaxis(mask, -1, channel_axis)
    for _ in range(ndim - 1 - len(mask.shape)):
        mask = ops.expand_dims(mask, -1)
    return ops.expand_dims(mask, channel_axis)


def by_step(mask: Tensor, x: Tensor) -> Tensor:
    """A mask of the samples of sequences (N, T, ...) as one of their steps; others as they are."""
    return ops.broadcast_to(mask[:, None], arrays.shape(x)[:2]) if len(mask.shape) == 1 else mask


def select(mask: Tensor, x: Tensor) -> Tensor:
    """Zeros where a mask that `over` has brought to its axes is False, eq. (2)."""
    return ops.where(mask, x, ops.zeros((), x.dtype))


def places(mask: Tensor, ndim: int) -> Tensor:
    """The mask without channels: of elements any of them, eq. (3)."""
    return ops.any(mask, -1) if len(mask.shape) == ndim else mask


def as_bool(mask: Tensor) -> Tensor:
    """A mask, also one that a functional model records, as bool; unchecked."""
    return mask if keras.backend.standardize_dtype(mask.dtype) == "bool" else ops.equal(mask, 1)
