"""Dropout: what is drawn once a batch, and where it acts (section 2 of docs/semantics.md)."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from gapcell.spec import Spec

__all__ = ["Scales", "draw"]


class Scales(NamedTuple):
    """Factors that drop or enlarge channels: 0 or 1/(1-p); None where nothing is dropped.

    Attributes:
        input: on x~, broadcast over (N, T, *S, C).
        recurrent: on h_(t-1) inside eq. (6), one a layer and direction, (N, *S', F) or with site axes of size 1.
        between: on each layer's output but the last's, broadcast over (N, T, *S', F·directions).
    """

    input: Tensor | None
    recurrent: tuple[Tensor | None, ...]
    between: tuple[Tensor | None, ...]


def draw(spec: Spec, x: Tensor, state: Tensor, *, training: bool) -> Scales:
    """One draw a sequence and channel, the same at every step and site; only in training.

    Args:
        spec: of the stack.
        x: whose samples, type and device the factors on inputs have.
        state: whose type and device those on the state have.
        training: whether anything is dropped.
    """

    def scale(probability: float, axes: int, channels: int, like: Tensor) -> Tensor | None:
        if not training or not probability:
            return None
        return F.dropout(like.new_ones((x.shape[0], *(1,) * axes, channels)), probability)

    axes = 1 if spec.window is not None else spec.rank + 1  # of x between its samples and its channels
    width = spec.filters * spec.directions
    return Scales(
        scale(spec.input_dropout, axes, spec.in_channels, x),
        tuple(
            scale(spec.recurrent_dropout, spec.rank, spec.filters, state)
            for _ in range(spec.num_layers * spec.directions)
        ),
        tuple(scale(spec.dropout, axes, width, x) for _ in range(spec.num_layers - 1)),
    )
