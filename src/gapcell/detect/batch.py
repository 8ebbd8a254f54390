"""A batch of chunks with what is to be predicted in it, and the share of it that each of several processes carries."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gapcell.detect.distributed import Ranks
from gapcell.detect.material import Material
from gapcell.detect.series import Chunks, gather


@dataclass(frozen=True, eq=False)
class Batch:
    """Chunks side by side, N of at most S places: a whole batch, or a rank's share of one.

    Attributes:
        chunks: N of them.
        places: (N, S) int64, padded on the right.
        counts: (N, S) bool, True where an event is predicted: neither padding, context, report nor too early.
        values: (N, S, features) float32, what is to be predicted, NaN where it does not count or is missing.
        events: how many count in the whole batch.
        labels: how many of those have a label that is to be learnt.
    """

    chunks: Chunks
    places: Tensor
    counts: Tensor
    values: Tensor
    events: int
    labels: int

    @classmethod
    def of(cls, material: Material, chunks: Chunks, draws: np.random.Generator, since: float = -math.inf) -> Batch:
        """The whole batch.

        Args:
            material: of a stream.
            chunks: those of the batch.
            draws: say where in its step each number lies.
            since: seconds before which no event counts.
        """
        places, there = gather(chunks.begin, chunks.end)
        counts = there & (places >= torch.from_numpy(chunks.first)[:, None]) & material.happens[places]
        counts &= material.sequences.seconds[places] >= since
        values = torch.where(counts.unsqueeze(-1), material.values(places, draws), math.nan)
        labels = int((counts & ~torch.isnan(material.labels[places])).sum())
        return cls(chunks, places, counts, values, int(counts.sum()), labels)

    def share(self, ranks: Ranks) -> Batch:
        """What of a whole batch this rank carries, padded to its own longest; its draws are those of the whole."""
        if ranks.alone:
            return self
        rows = ranks.share(self.chunks.end - self.chunks.begin)
        chunks = self.chunks.at(rows)
        longest = int((chunks.end - chunks.begin).max(initial=1))
        places, counts, values = (part[rows, :longest] for part in (self.places, self.counts, self.values))
        return Batch(chunks, places, counts, values, self.events, self.labels)
