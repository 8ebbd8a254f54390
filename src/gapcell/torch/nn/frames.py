"""Which frames, (sample, step) pairs, are computed: a frame of which nothing is wanted costs nothing in plain eager."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gapcell import arrays

__all__ = ["Frames"]


@dataclass(frozen=True)
class Frames:
    """The computed frames of N samples and T steps.

    Attributes:
        samples: N.
        steps: T.
        index: (P,) n*T + t of each computed frame; None: all of them.
    """

    samples: int
    steps: int
    index: Tensor | None

    @classmethod
    def where(cls, wanted: Tensor | None, x: Tensor) -> Frames:
        """The frames of x (N, T, ...) where `wanted` (N, T) is True; all where its values may not be looked at."""
        samples, steps = x.shape[:2]
        index = None
        if wanted is not None and arrays.is_concrete(wanted):
            index = wanted.flatten().nonzero().squeeze(1)
            if len(index) == samples * steps:
                index = None
        return cls(samples, steps, index)

    def pack(self, x: Tensor) -> Tensor:
        """(N, T, ...) to (P, ...)."""
        x = x.flatten(0, 1)
        return x if self.index is None else x.index_select(0, self.index)

    def unpack(self, y: Tensor) -> Tensor:
        """(P, ...) to (N, T, ...), zeros (False) at the other frames."""
        if self.index is not None:
            y = y.new_zeros((self.samples * self.steps, *y.shape[1:])).index_copy(0, self.index, y)
        return torch.reshape(y, (self.samples, self.steps, *y.shape[1:]))
