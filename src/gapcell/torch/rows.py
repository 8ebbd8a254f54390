"""Which (row, step) pairs are computed, and in which order.

A step in which no site of a row is updated is a no-op (eq. (9)), so it is not computed: each row's remaining steps
move to the front, rows are sorted by how many they have, and the k-th computed step of all rows is a prefix of the
batch, as in torch's PackedSequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Rows"]


@dataclass(frozen=True)
class Rows:
    """The computed (row, step) pairs of a batch of N rows and T steps.

    Attributes:
        samples: N.
        steps: T.
        batch_sizes: rows computed at the k-th step, never increasing.
        order: (N,) rows by decreasing number of computed steps; None: as they are.
        pairs: (P,) n*T + t of each computed pair, in the order of computation; None: all of them, by step.
        places: (N, T) where each pair's latest computed state is found in that order, or P + n before the first.
    """

    samples: int
    steps: int
    batch_sizes: tuple[int, ...]
    order: Tensor | None = None
    pairs: Tensor | None = None
    places: Tensor | None = None

    @classmethod
    def everything(cls, samples: int, steps: int) -> Rows:
        """All pairs: nothing is known to be a no-op."""
        return cls(samples, steps, (samples,) * steps)

    @classmethod
    def where_active(cls, active: Tensor) -> Rows:
        """The pairs where `active` (N, T) bool is True; looks at its values."""
        samples, steps = active.shape
        counts = active.sum(1)
        most = int(counts.max()) if samples else 0
        if most == steps and bool((counts == steps).all()):
            return cls.everything(samples, steps)
        order = torch.argsort(counts, descending=True, stable=True)
        rank = torch.empty_like(order).scatter_(0, order, torch.arange(samples, device=order.device))
        sizes = (counts[:, None] > torch.arange(most, device=counts.device)).sum(0)
        total = int(sizes.sum())
        if total == 0:
            return cls(samples, steps, (), order, order[:0], rank[:, None].expand(-1, steps))
        offsets = sizes.cumsum(0) - sizes
        step = active.cumsum(1) - 1
        computed = offsets[step.clamp(min=0)] + rank[:, None]
        places = torch.where(step >= 0, computed, total + rank[:, None])
        pairs = torch.empty(total, dtype=torch.long, device=active.device)
        pairs[computed[active]] = active.flatten().nonzero().squeeze(1)
        return cls(samples, steps, tuple(sizes.tolist()), order, pairs, places)

    def pack(self, x: Tensor) -> Tensor:
        """(N, T, ...) to (P, ...)."""
        if self.pairs is None:
            return x.transpose(0, 1).flatten(0, 1)
        return x.flatten(0, 1).index_select(0, self.pairs)

    def unpack(self, y: Tensor, held: Tensor | None = None) -> Tensor:
        """(P, ...) to (N, T, ...).

        Args:
            y: values of the computed pairs.
            held: None gives zeros elsewhere; the initial state (N, ...), sorted, gives eq. (10)'s "hold": the latest
                computed value, or the initial state before the first.
        """
        shape = (self.samples, self.steps, *y.shape[1:])
        if self.pairs is None:
            return y.unflatten(0, (self.steps, self.samples)).transpose(0, 1)
        if held is not None and self.places is not None:
            return torch.cat([y, held.to(y.dtype)]).index_select(0, self.places.flatten()).view(shape)
        return y.new_zeros((self.samples * self.steps, *y.shape[1:])).index_copy(0, self.pairs, y).view(shape)

    def sort(self, rows: Tensor) -> Tensor:
        """(N, ...) in the order of computation."""
        return rows if self.order is None else rows.index_select(0, self.order)

    def unsort(self, rows: Tensor) -> Tensor:
        """(N, ...) in the caller's order."""
        return rows if self.order is None else rows.index_select(0, self.order.argsort())
