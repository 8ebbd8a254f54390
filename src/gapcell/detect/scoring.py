r"""How far out every event lies, against the entity's own prediction and against the population's.

A part is one feature of one stream judged by one of the two: s = -log p, with p the probability of something at least
as extreme. An event's score is the largest of its m parts, put on the scale of one part by Sidak's correction,

    score = -log(1 - (1 - exp(-max s))^m),

so that an event with many features is not suspicious for having many. Under a perfect model a score above x would come
with probability at most about exp(-x); how far the model is from perfect is what the threshold, a quantile of held-out
scores, takes care of. No part is calibrated by itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gapcell.detect.features import Encoded
from gapcell.detect.heads import NUMERIC, Head, Tail, Targets, log_probabilities, quantile, surprise
from gapcell.detect.model import LabelHead, Network, Sequences, states_before
from gapcell.detect.streams import Stream

LOW, HIGH = 0.05, 0.95  # what lies between is called expected
FAR = 30.0  # beyond it 1 - (1 - p)^m is m p to double precision
ROWS_AT_ONCE = 65_536  # of the population's parts


@dataclass(frozen=True, eq=False)
class Predictor:
    """The network and the population of one stream.

    The encoder runs in float32 and the heads in float64. With the compiled kernel an event's score does not depend on
    what is scored beside it; without it, it does in the last digits of float32.

    Attributes:
        network: in evaluation mode; None where the population alone predicts.
        own: the chosen head of each feature, in the order of the features; empty without a network.
        population: (all,) float64, the population's parameters.
        common: the chosen head of each feature for the population.
        tails: which side of each feature is anomalous.
    """

    network: Network | None
    population: Tensor
    own: tuple[Head, ...]
    common: tuple[Head, ...]
    tails: tuple[Tail, ...]


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of events, F features.

    Attributes:
        own: (rows, F) parts against the entity's own prediction, NaN where the feature is missing.
        population: (rows, F) parts against the population's.
        score: (rows,) the combined score, NaN where every feature is missing.
        feature: (rows,) int64, the feature that decided, -1 where there is none.
        by_population: (rows,) bool, True where it was the population that decided.
        low: (rows,) for a number the lower end of what was expected of the deciding feature, scaled; for a category
            the number of the one expected most; NaN unless asked for.
        high: (rows,) the upper end; for a category the probability of the one expected most.
    """

    own: np.ndarray
    population: np.ndarray
    score: np.ndarray
    feature: np.ndarray
    by_population: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of every event's score.

    Attributes:
        own: (rows, F) against the entity's own prediction, NaN where the feature is missing.
        population: (rows, F) against the population's.
        odds: (rows, streams) log odds of the label that each stream's network gives, NaN where it has none.
    """

    own: np.ndarray
    population: np.ndarray
    odds: np.ndarray


@dataclass(frozen=True, eq=False)
class Read:
    """A stream as a predictor reads it.

    Attributes:
        stream: its places.
        sequences: what the network reads.
        targets: what came.
        until: (series,) one past the last place to be read of each series.
        judged: (places,) bool, True at the events that are to be judged; the others are history alone.
        states: (places, F) the network's state before each place, where it has already been run; else None.
    """

    stream: Stream
    sequences: Sequences
    targets: Targets
    until: np.ndarray
    judged: np.ndarray
    states: Tensor | None = None

    @classmethod
    def of(cls, stream: Stream, encoded: Encoded, until: float = math.inf, wanted: np.ndarray | None = None) -> Read:
        """A stream that was encoded.

        Args:
            stream: its places.
            encoded: the same places as numbers.
            until: seconds from which on nothing is read.
            wanted: (rows,) bool, True for the events to be judged; all when None.
        """
        judged = ~stream.report if wanted is None else wanted[stream.row] & ~stream.report
        sequences = Sequences.of(encoded, stream.seconds)
        return cls(stream, sequences, Targets.of(encoded), stream.ends(until), judged)

    @property
    def begin(self) -> np.ndarray:
        """(series,) the first place of each series."""
        return self.stream.starts[:-1]


def combine(parts: np.ndarray) -> np.ndarray:
    """Score (rows,) of parts (rows, m), NaN where not scored: the largest, on the scale of one part."""
    count = np.maximum((~np.isnan(parts)).sum(1), 1)
    largest = np.where(np.isnan(parts), -np.inf, parts).max(1, initial=-np.inf)
    near = np.clip(largest, 0.0, FAR)
    with np.errstate(divide="ignore"):  # a part of 0 has p = 1, so that log(1 - p) is -inf and the score 0
        corrected = -np.log(-np.expm1(count * np.log1p(-np.exp(-near))))
    score = np.where(largest > FAR, largest - np.log(count), corrected)
    return np.where(largest >= 0, np.maximum(score, 0.0), np.nan)


def parts_of(predictor: Predictor, read: Read, rows: int, common_from: int = 0) -> Parts:
    """Every event's parts in one stream.

    NaN where a feature is missing, and for events that are not judged or in no such stream. Own parts all are NaN
    without a network, and so are the log odds of the label where no labels were learnt.

    Args:
        predictor: of the stream.
        read: the stream.
        rows: of the table.
        common_from: the first feature of which the population has a view here.
    """
    features = len(predictor.common)
    own, population = np.full((rows, features), np.nan), np.full((rows, features), np.nan)
    odds = np.full(rows, np.nan)
    network = predictor.network
    if network is not None:
        for places, states in event_states(network, read):
            row = read.stream.row[places.numpy()]
            parameters = readout(network, states)
            own[row] = surprises(predictor.own, parameters, read.targets.at(places), predictor.tails)
            if network.label_head is not None:
                odds[row] = odds_of(network.label_head, read, places, states)
    for places in events_judged(read):
        alike = predictor.population.expand(len(places), -1)
        row = read.stream.row[places.numpy()]
        found = surprises(predictor.common[common_from:], alike, read.targets.at(places), predictor.tails[common_from:])
        population[row, common_from:] = found
    return Parts(own, population, odds[:, None])


def label_odds(network: Network, read: Read, rows: int) -> np.ndarray:
    """The log odds of the label (rows,) that a network with a label head gives, NaN for events that are not judged."""
    found = np.full(rows, np.nan)
    if network.label_head is not None:
        for places, states in event_states(network, read):
            found[read.stream.row[places.numpy()]] = odds_of(network.label_head, read, places, states)
    return found


@torch.no_grad()
def odds_of(head: LabelHead, read: Read, places: Tensor, states: Tensor) -> np.ndarray:
    """Log odds (events,) of the events at these places, from the states (events, F) before them."""
    return head(states.double(), read.sequences.inputs[places], read.sequences.observed[places]).numpy()


def event_states(network: Network, read: Read) -> Iterator[tuple[Tensor, Tensor]]:
    """The state before every event that is judged: yields places (events,) and states (events, F)."""
    judged = torch.from_numpy(read.judged)
    if read.states is not None:
        places = torch.from_numpy(np.flatnonzero(read.judged))
        yield places, read.states[places]
        return
    for places, states in states_before(network, read.sequences, read.begin, read.until):
        events = judged[places]
        if bool(events.any()):
            yield places[events], states[events]


@torch.no_grad()
def readout(network: Network, states: Tensor) -> Tensor:
    """Parameters (events, all) float64 from states (events, F)."""
    return network.readout(states.double())


def predictions(predictor: Predictor, read: Read) -> Iterator[tuple[Tensor, Tensor]]:
    """Predict every event that is judged: yields places (events,) and parameters (events, all) float64.

    Nothing without a network.
    """
    network = predictor.network
    if network is not None:
        for places, states in event_states(network, read):
            yield places, readout(network, states)


def events_judged(read: Read) -> Iterator[Tensor]:
    """The places of the events that are judged, in pieces."""
    length = np.diff(read.stream.starts)
    reached = np.arange(len(read.stream.row)) < np.repeat(read.until, length)
    places = torch.from_numpy(np.flatnonzero(reached & read.judged))
    yield from torch.split(places, ROWS_AT_ONCE)


def decide(own: np.ndarray, population: np.ndarray, scores: np.ndarray) -> Scored:
    """Combine parts (rows, F) into the scores; only features that are True in `scores` (F,) have a say."""
    rows, features = own.shape
    both = np.concatenate([np.where(scores, own, np.nan), np.where(scores, population, np.nan)], 1)
    best = np.argmax(np.where(np.isnan(both), -np.inf, both), 1)
    known = ~np.isnan(both).all(1)
    nothing = np.full(rows, np.nan)
    return Scored(
        own, population, combine(both), np.where(known, best % features, -1), known & (best >= features),
        nothing, nothing.copy(),
    )  # fmt: skip


def expected(predictor: Predictor, read: Read, features: np.ndarray, by_population: np.ndarray) -> np.ndarray:
    """What was expected of one feature of each event: (rows, 2), `Scored.low` and `Scored.high`.

    Args:
        predictor: of the stream.
        read: the stream; only what is read of it is looked at.
        features: (rows,) the number of the feature in this stream, -1 for none.
        by_population: (rows,) True where it is the population's expectation.
    """
    found = np.full((len(features), 2), np.nan)
    for number, head in enumerate(predictor.common):
        at = np.flatnonzero((features == number) & by_population)
        if at.size:
            found[at] = np.stack(band(head, head.of(predictor.population)), -1)
    for places, parameters in predictions(predictor, read):
        row = read.stream.row[places.numpy()]
        for number, head in enumerate(predictor.own):
            those = (features[row] == number) & ~by_population[row]
            if those.any():
                found[row[those]] = np.stack(band(head, head.of(parameters)[torch.from_numpy(those)]), -1)
    return found


def surprises(heads: tuple[Head, ...], parameters: Tensor, targets: Targets, tails: tuple[Tail, ...]) -> np.ndarray:
    """Every feature's part: (events, F), NaN where missing."""
    return torch.stack(
        [surprise(head, head.of(parameters), targets, tail) for head, tail in zip(heads, tails, strict=True)], -1
    ).numpy()


def band(head: Head, parameters: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The range with 90 % of the probability (...), or the likeliest category and its probability (...)."""
    if head.family in NUMERIC:
        return quantile(head, parameters, LOW).numpy(), quantile(head, parameters, HIGH).numpy()
    most = log_probabilities(head, parameters).max(-1)
    return most.indices.double().numpy(), most.values.exp().numpy()


def bands(predictor: Predictor, read: Read, series: np.ndarray) -> dict[int, np.ndarray]:
    """For each feature's number: (events, 3) row, and the two numbers of `band` of the own prediction.

    Args:
        predictor: of the stream.
        read: the stream.
        series: (n,) the numbers of the series that are wanted.
    """
    found: dict[int, list[np.ndarray]] = {number: [] for number in range(len(predictor.own))}
    for places, parameters in predictions(predictor, only(read, series)):
        for number, head in enumerate(predictor.own):
            low, high = band(head, head.of(parameters))
            found[number].append(np.stack([read.stream.row[places.numpy()].astype(float), low, high], 1))
    return {number: np.concatenate(pieces) if pieces else np.empty((0, 3)) for number, pieces in found.items()}


def only(read: Read, series: np.ndarray) -> Read:
    """The same stream, with nothing to be read but these series (n,)."""
    until = read.begin.copy()
    until[series] = read.until[series]
    return dataclasses.replace(read, until=until)
