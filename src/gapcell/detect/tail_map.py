"""What a stated probability turned out to be worth: a map of surprises fitted on held-out events."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVELS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005, 0.0002, 0.0001)
FEWEST = 20  # held-out events beyond a level, without which it is not told from chance


@dataclass(frozen=True)
class TailMap:
    """Turns -log p as stated into -log of how often so small a p came among held-out events.

    Straight lines between the levels that enough events lie beyond; farther out it goes on as steeply as the mean
    excess over the last level says, as an exponential tail has it. Without enough events it changes nothing.

    Attributes:
        stated: surprises at the levels, from 0 upward.
        came: what they are worth.
        slope: of what lies beyond the last.
    """

    stated: tuple[float, ...] = (0.0,)
    came: tuple[float, ...] = (0.0,)
    slope: float = 1.0

    @classmethod
    def fit(cls, surprises: np.ndarray) -> TailMap:
        """Fit on the surprises (events,) of held-out events, NaN where not scored."""
        known = surprises[~np.isnan(surprises)]
        stated, came = [0.0], [0.0]
        for level in LEVELS:
            if known.size * level < FEWEST:
                break
            at = float(np.quantile(known, 1 - level))
            if at > stated[-1]:
                stated.append(at)
                came.append(-math.log(level))
        if len(stated) == 1:
            return cls()
        excess = float((known[known > stated[-1]] - stated[-1]).mean()) if (known > stated[-1]).any() else 1.0
        return cls(tuple(stated), tuple(came), 1.0 / max(excess, 1e-3))

    def __call__(self, surprises: np.ndarray) -> np.ndarray:
        """Surprises as stated (any shape) to what they are worth; NaN stays."""
        beyond = np.maximum(surprises - self.stated[-1], 0.0)
        return np.interp(surprises, self.stated, self.came) + self.slope * beyond


def worth_of(parts: np.ndarray, maps: Sequence[TailMap]) -> np.ndarray:
    """Parts (rows, features) as stated to what they are worth, each by the map of its feature."""
    return np.stack([worth(column) for worth, column in zip(maps, parts.T, strict=True)], 1)
