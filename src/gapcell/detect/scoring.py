r"""How far out every event lies, against the entity's own prediction and against the population's.

A part is one feature judged by one of the two: s = -log p, with p the probability of something at least as extreme. An
event's score is the largest of its m parts, put on the scale of one part by Sidak's correction,

    score = -log(1 - (1 - exp(-max s))^m),

so that an event with many features is not suspicious for having many (m is 2 for each feature that is there). Under a
perfect model a score above x would come with probability at most about exp(-x); how far the model is from perfect is
what the threshold, a quantile of held-out scores, takes care of. No part is calibrated by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gapcell.detect.events import EventTable
from gapcell.detect.features import Encoded
from gapcell.detect.heads import Head, Tail, Targets, log_probabilities, quantile, surprise
from gapcell.detect.model import Network, Sequences, predictions

LOW, HIGH = 0.05, 0.95  # what lies between is called expected
FAR = 30.0  # beyond it 1 - (1 - p)^m is m p to double precision


@dataclass(frozen=True, eq=False)
class Predictor:
    """The network and the population, in float64 so that a score does not depend on what is scored beside it.

    Attributes:
        network: in float64 and evaluation mode.
        population: (all,) float64, the population's parameters.
        own: the chosen head of each feature, in the order of the features.
        common: likewise of the population.
        tails: which side of each feature is anomalous.
    """

    network: Network
    population: Tensor
    own: tuple[Head, ...]
    common: tuple[Head, ...]
    tails: tuple[Tail, ...]


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of events, sorted as they were given; F features.

    Attributes:
        own: (rows, F) parts against the entity's own prediction, NaN where the feature is missing.
        population: (rows, F) parts against the population's.
        score: (rows,) the combined score, NaN where every feature is missing.
        feature: (rows,) int64, the feature that decided, -1 where there is none.
        by_population: (rows,) bool, True where it was the population that decided.
        low: (rows,) for a number the lower end of what was expected of the deciding feature, scaled; for a category
            the number of the one expected most.
        high: (rows,) the upper end; for a category the probability of the one expected most.
    """

    own: np.ndarray
    population: np.ndarray
    score: np.ndarray
    feature: np.ndarray
    by_population: np.ndarray
    low: np.ndarray
    high: np.ndarray


def combine(parts: np.ndarray) -> np.ndarray:
    """Score (rows,) of parts (rows, m), NaN where not scored: the largest, on the scale of one part."""
    count = np.maximum((~np.isnan(parts)).sum(1), 1)
    largest = np.where(np.isnan(parts), -np.inf, parts).max(1, initial=-np.inf)
    near = np.clip(largest, 0.0, FAR)
    with np.errstate(divide="ignore"):  # a part of 0 has p = 1, so that log(1 - p) is -inf and the score 0
        corrected = -np.log(-np.expm1(count * np.log1p(-np.exp(-near))))
    score = np.where(largest > FAR, largest - np.log(count), corrected)
    return np.where(largest >= 0, np.maximum(score, 0.0), np.nan)


def score_events(
    predictor: Predictor,
    sequences: Sequences,
    targets: Targets,
    begin: np.ndarray,
    end: np.ndarray,
    *,
    explained: bool = False,
) -> Scored:
    """Score the events of the series [begin, end); the rows of events outside of them stay unscored.

    Args:
        predictor: the fitted network and population.
        sequences: what the network reads, of all rows.
        targets: what came, of all rows.
        begin: (series,) first event of each series.
        end: (series,) one past its last.
        explained: also find what was expected (`low` and `high` are NaN otherwise).
    """
    rows, features = targets.value.shape
    own = np.full((rows, features), np.nan)
    population = parts(predictor.common, predictor.population.expand(rows, -1), targets, predictor.tails).numpy()
    deciding = np.full(rows, -1)
    by_population = np.zeros(rows, dtype=bool)
    low, high = np.full(rows, np.nan), np.full(rows, np.nan)
    for places, parameters in predictions(predictor.network, sequences, begin, end):
        at = places.numpy()
        own[at] = parts(predictor.own, parameters, targets.at(places), predictor.tails).numpy()
        both = np.concatenate([own[at], population[at]], 1)
        best = np.argmax(np.where(np.isnan(both), -np.inf, both), 1)
        known = ~np.isnan(both).all(1)
        deciding[at] = np.where(known, best % features, -1)
        by_population[at] = known & (best >= features)
        if explained:
            low[at], high[at] = expected(predictor, parameters, deciding[at], by_population[at])
    reached = deciding >= 0
    population[~reached] = np.nan
    return Scored(own, population, combine(np.concatenate([own, population], 1)), deciding, by_population, low, high)


def score_table(predictor: Predictor, encoded: Encoded, table: EventTable, *, explained: bool = False) -> Scored:
    """Score every event of a table from its encoding; the scores are in the order of the table."""
    scored = score_events(
        predictor, Sequences.of(encoded), Targets.of(encoded), table.starts[:-1], table.starts[1:], explained=explained
    )
    return unsorted(scored, table.order)


def unsorted(scored: Scored, order: np.ndarray) -> Scored:
    """Scores sorted by entity and time, put back in the order of the table."""
    return Scored(*(in_table_order(getattr(scored, name), order) for name in Scored.__dataclass_fields__))


def in_table_order(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Values (rows, ...) sorted by entity and time, put back in the order of the table."""
    back = np.empty_like(values)
    back[order] = values
    return back


def parts(heads: tuple[Head, ...], parameters: Tensor, targets: Targets, tails: tuple[Tail, ...]) -> Tensor:
    """Every feature's part: (events, F), NaN where missing."""
    return torch.stack(
        [surprise(head, head.of(parameters), targets, tail) for head, tail in zip(heads, tails, strict=True)], -1
    )


def expected(
    predictor: Predictor, parameters: Tensor, deciding: np.ndarray, by_population: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What was expected of each event's deciding feature: `Scored.low` and `Scored.high`."""
    low, high = np.full(len(deciding), np.nan), np.full(len(deciding), np.nan)
    for heads, common in ((predictor.own, False), (predictor.common, True)):
        for number, head in enumerate(heads):
            at = np.flatnonzero((deciding == number) & (by_population == common))
            if at.size == 0:
                continue
            if common:
                low[at], high[at] = band(head, head.of(predictor.population))
            else:
                low[at], high[at] = band(head, head.of(parameters)[torch.from_numpy(at)])
    return low, high


def band(head: Head, parameters: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The range with 90 % of the probability (...), or the likeliest category and its probability (...)."""
    if head.family in ("student-t", "mixture"):
        return quantile(head, parameters, LOW).numpy(), quantile(head, parameters, HIGH).numpy()
    most = log_probabilities(head, parameters).max(-1)
    return most.indices.double().numpy(), most.values.exp().numpy()


def bands(predictor: Predictor, sequences: Sequences, begin: np.ndarray, end: np.ndarray) -> dict[int, np.ndarray]:
    """For each feature's number: (events, 3) place, and the two numbers of `band` of the own prediction."""
    found: dict[int, list[np.ndarray]] = {number: [] for number in range(len(predictor.own))}
    for places, parameters in predictions(predictor.network, sequences, begin, end):
        for number, head in enumerate(predictor.own):
            low, high = band(head, head.of(parameters))
            found[number].append(np.stack([places.double().numpy(), low, high], 1))
    return {number: np.concatenate(pieces) if pieces else np.empty((0, 3)) for number, pieces in found.items()}
