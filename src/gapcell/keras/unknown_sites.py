"""How a mask passes a convolution where TensorFlow's graphs know the number of sites only when they run.

The same as `masks.through_conv` and `masks.through_conv_transpose`, which count in Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from gapcell import arrays

__all__ = ["through_conv", "through_conv_transpose"]

Tensor = Any


def through_conv(
    mask: Tensor,
    kernel_size: Sequence[int],
    *,
    stride: Sequence[int],
    padding: str,
    dilation: Sequence[int],
    rule: str | None,
    causal: bool,
    same_padding: str,
) -> Tensor:
    """A mask (N, *S) at the output sites of a convolution; arguments as in `masks.through_conv`."""
    assert same_padding == "keras"  # noqa: S101 # Keras's layers are the only ones to have such graphs
    rule = rule or ("all" if padding == "valid" else "centre")
    for axis, (kernel, step, spread) in enumerate(zip(kernel_size, stride, dilation, strict=True), start=1):
        size = arrays.shape(mask)[axis]
        reach = spread * (kernel - 1)
        if padding == "valid":
            out, left = (size - reach - 1) // step + 1, 0
        else:
            out = (size + step - 1) // step
            left = reach if causal else ops.maximum((out - 1) * step + reach + 1 - size, 0) // 2
        first = ops.arange(out) * step - left
        reads = first[:, None] + ops.arange(kernel) * spread
        centre = first + (reach if causal else reach // 2)
        mask = _combined(mask, axis, reads, (reads >= 0) & (reads < size), centre, rule)
    return mask


def through_conv_transpose(
    mask: Tensor,
    kernel_size: Sequence[int],
    *,
    stride: Sequence[int],
    padding: str,
    output_padding: Sequence[int] | None,
    dilation: Sequence[int],
    rule: str | None,
) -> Tensor:
    """A mask (N, *S) at the output sites of Keras's transposed convolution."""
    extra: Sequence[int | None] = output_padding or [None] * len(kernel_size)
    for axis, (kernel, step, more, spread) in enumerate(
        zip(kernel_size, stride, extra, dilation, strict=True), start=1
    ):
        size = arrays.shape(mask)[axis]
        span = spread * (kernel - 1) + 1
        if padding == "valid":
            out, left = (size - 1) * step + span + (max(step - span, 0) if more is None else more), 0
        elif more is None:
            out, left = size * step, max(span - step, 0) // 2
        else:
            out, left = (size - 1) * step + span % 2 + more, max(span - span % 2 - more, 0) // 2
        place = ops.arange(out) + left
        apart = place[:, None] - ops.arange(kernel) * spread
        inside = (apart >= 0) & (apart < size * step) & (apart % step == 0)
        # The input site nearest to the output site, the left one of two.
        centre = -((span - 1 + step - 2 * place) // (2 * step))
        mask = _combined(mask, axis, apart // step, inside, centre, rule or "centre")
    return mask


def _combined(mask: Tensor, axis: int, reads: Tensor, inside: Tensor, centre: Tensor, rule: str) -> Tensor:
    """The mask along one axis from the places (S', taps) that an output site reads, and the one at its centre."""
    last = arrays.shape(mask)[axis] - 1
    at_centre = ops.take(mask, ops.clip(centre, 0, last), axis)
    if rule == "centre":
        return at_centre
    read = ops.take(mask, ops.clip(reads, 0, last), axis)
    somewhere = ops.any(inside, -1)
    for _ in range(len(mask.shape) - axis - 1):
        inside, somewhere = ops.expand_dims(inside, -1), ops.expand_dims(somewhere, -1)
    combined = ops.all(read | ~inside, axis + 1) if rule == "all" else ops.any(read & inside, axis + 1)
    return ops.where(somewhere, combined, at_centre)
