"""Log odds of labels from networks that did not learn them, for what is learnt on top of the odds.

A network's odds of labels it learnt are far surer than its odds of new ones: on few labels its average precision was
.6 on those and .07 on new ones. A model that reads the former learns to trust what it will not get. So the series are
dealt into folds, and the odds of a fold come from a network that learnt the labels of the others alone (cross-fitted
stacking: Wolpert 1992, Breiman 1996).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from gapcell.detect.material import Material
from gapcell.detect.model import Network
from gapcell.detect.scoring import Read, label_odds, only

FOLDS = 2


@dataclass(frozen=True, eq=False)
class CrossFitted:
    """Networks of one stream, each of which learnt no label of its own fold.

    Attributes:
        fold: (series,) int64, the fold of each series.
        networks: one a fold; fewer where the training was interrupted.
    """

    fold: np.ndarray
    networks: tuple[Network, ...]

    @classmethod
    def fit(cls, material: Material, seed: int, train: Callable[[Material, int], Network | None]) -> CrossFitted:
        """Train the networks.

        Args:
            material: of the stream, with all labels that may be learnt.
            seed: of how the series are dealt.
            train: trains on the material of a fold, whose number it is told; None where it was interrupted.
        """
        series = len(material.starts) - 1
        fold = np.random.default_rng(seed).permutation(np.arange(series) % FOLDS)
        networks = []
        for number in range(FOLDS):
            network = train(without_labels(material, fold == number), number + 1)
            if network is None:
                break
            networks.append(network)
        return cls(fold, tuple(networks))

    def odds(self, read: Read, rows: int) -> np.ndarray:
        """Log odds of the judged events: (rows,), NaN elsewhere and where a network is not there."""
        found = np.full(rows, np.nan)
        for number, network in enumerate(self.networks):
            here = label_odds(network, only(read, np.flatnonzero(self.fold == number)), rows)
            found = np.where(np.isnan(here), found, here)
        return found


def without_labels(material: Material, series: np.ndarray) -> Material:
    """The same material, with no label of these series (series,) bool to be learnt."""
    theirs = torch.from_numpy(np.repeat(series, np.diff(material.starts)))
    return dataclasses.replace(material, labels=material.labels.masked_fill(theirs, math.nan))
