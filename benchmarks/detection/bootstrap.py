"""How far a difference between two methods depends on which entities happened to be there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse


@dataclass(frozen=True, eq=False)
class Ranking:
    """Scores against labels, so laid out that drawing entities again costs one product of matrices.

    Attributes:
        hits: (thresholds, entities) sparse, labelled events of an entity from one threshold to the one above it; the
            thresholds are the scores of labelled events, highest first, and where they lie no recall is gained.
        misses: likewise the other events that lie above, between a threshold (left out) and the one above it.
        level: likewise those whose score is the threshold's.
        rest: (entities,) the other events below all thresholds.
    """

    hits: sparse.csr_array
    misses: sparse.csr_array
    level: sparse.csr_array
    rest: np.ndarray

    @classmethod
    def of(cls, score: np.ndarray, label: np.ndarray, entity: np.ndarray, entities: int) -> Ranking:
        """From scores (events,), labels (events,) bool and entities (events,) int64 below `entities`."""
        thresholds = -np.unique(-score[label])
        above = np.searchsorted(-thresholds, -score, "left")  # the highest threshold that the score does not exceed..
        reached = np.append(thresholds, -np.inf)[above] == score  # ..and whether it lies on it
        other, count = ~label, len(thresholds)

        def matrix(events: np.ndarray) -> sparse.csr_array:
            at = (above[events], entity[events])
            return sparse.csr_array((np.ones(int(events.sum())), at), shape=(count, entities))

        rest = np.bincount(entity[other & (above == count)], minlength=entities)
        between = other & ~reached & (above < count)
        return cls(matrix(label), matrix(between), matrix(other & reached), rest)

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """Average precision (draws,) when entities count (entities, draws) times."""
        hits = self.hits @ weights
        found, wrong = hits.cumsum(0), ((self.misses + self.level) @ weights).cumsum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(found > 0, found / (found + wrong), 0.0)
            return (hits * precision).sum(0) / hits.sum(0)

    def roc_auc(self, weights: np.ndarray) -> np.ndarray:
        """Area under the ROC curve (draws,) when entities count (entities, draws) times."""
        hits, level = self.hits @ weights, self.level @ weights
        between = self.misses @ weights
        above = (between + level).cumsum(0) - level  # others with a higher score than the threshold
        total = (between + level).sum(0) + self.rest @ weights
        with np.errstate(invalid="ignore", divide="ignore"):
            return (hits * (total - above - level / 2)).sum(0) / (hits.sum(0) * total)


def draw(entities: int, draws: int, seed: int = 0) -> np.ndarray:
    """How often each entity is drawn: (entities, draws); as many as there are, with replacement."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(entities, np.full(entities, 1 / entities), size=draws).T.astype(np.float64)


def interval(values: np.ndarray) -> tuple[float, float]:
    """What holds 95 % of the draws; a draw without any label says nothing."""
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def drawn_average_precision(
    scores: Sequence[np.ndarray], label: np.ndarray, entity: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """The mean over a method's seeds, in every draw: (draws,).

    Args:
        scores: (events,) one a seed.
        label: (events,) bool.
        entity: (events,) int64, rows of `weights`.
        weights: of `draw`; the same for all methods, so that their differences are paired.
    """
    rankings = (Ranking.of(score, label, entity, len(weights)) for score in scores)
    return np.mean([ranking.average_precision(weights) for ranking in rankings], 0)
