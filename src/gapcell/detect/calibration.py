"""Whether what was said to be seldom is as seldom: probabilities held against how often they came.

Two views of the same thing. `exceedances` takes the parts of the scores, s = -log p, and counts how often p lay below
0.1, 0.01 and 0.001; this is what an alert rests on, and what people can read. `transforms` takes the predictions
themselves: the randomised probability integral transform (Dawid 1984; Smith 1985) is uniform under a perfect model
whatever was predicted, also of counts, cents and categories, and `kolmogorov` says how far from uniform it is.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from scipy import special
from torch import Tensor

from gapcell.detect.heads import NUMERIC, Head, Targets, log_probabilities, log_tails
from gapcell.detect.results import Feature, Part
from gapcell.detect.scoring import Predictor, Read, events_judged, only, predictions

LEVELS = (0.1, 0.01, 0.001)
CONFIDENCE = 0.95
JUDGES = ("own", "population")
MOST_JUDGED = 20_000  # events that a distance is measured on: it then is known to about 0.01


@dataclass(frozen=True)
class Exceedance:
    """How often something came that was said to be this seldom.

    Attributes:
        level: the stated probability.
        events: events that were judged.
        came: how many of them had a p of at most `level`; by chance alone events * level.
        low: lower end of what `came / events` may be, at 95 % confidence (Clopper and Pearson 1934); 0 without events.
        high: upper end; 1 without events.
    """

    level: float
    events: int
    came: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """The share that came; NaN without events."""
        return self.came / self.events if self.events else math.nan

    @property
    def agrees(self) -> bool:
        """Whether the stated probability lies among those that the count allows."""
        return self.low <= self.level <= self.high


def exceedances(surprises: np.ndarray, levels: Sequence[float] = LEVELS) -> tuple[Exceedance, ...]:
    """Count how often p lay at or below each level.

    A p counts the value itself, and so is a little too large where values repeat: of cents that is nothing, of
    categories and small counts fewer events come than was said, and never more. `transforms` has no such slack.

    Args:
        surprises: (events,) -log p, NaN where not scored.
        levels: probabilities between 0 and 1.
    """
    known = surprises[~np.isnan(surprises)]
    found = []
    for level in levels:
        came = int((known >= -math.log(level)).sum())
        low, high = binomial_interval(came, known.size)
        found.append(Exceedance(level, known.size, came, low, high))
    return tuple(found)


def binomial_interval(came: int, events: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The probabilities under which `came` of `events` is no surprise (Clopper and Pearson 1934)."""
    if events == 0:
        return 0.0, 1.0
    outside = (1 - confidence) / 2
    low = float(special.betaincinv(came, events - came + 1, outside)) if came else 0.0
    high = float(special.betaincinv(came + 1, events - came, 1 - outside)) if came < events else 1.0
    return low, high


def calibration_of(frame: pl.DataFrame, features: Sequence[Feature], part: Part) -> pl.DataFrame:
    """How often what was said to be seldom came, feature by feature, in one part of `Detection.frame`.

    Columns: feature, judge ("own" or "population"), level, events, came, low, high. A feature without a score in this
    part, and one that no column speaks of, has no rows.
    """
    events = frame.filter(pl.col("part") == part)
    rows = []
    for feature in features:
        for judge in JUDGES:
            name = f"score_{judge}_{feature.name}"
            if name not in events.columns or events[name].null_count() == events.height:
                continue
            surprises = events[name].cast(pl.Float64).fill_null(math.nan).to_numpy()
            rows += [
                (feature.name, judge, each.level, each.events, each.came, each.low, each.high)
                for each in exceedances(surprises)
            ]
    kinds = {
        "feature": pl.String, "judge": pl.String, "level": pl.Float64, "events": pl.Int64, "came": pl.Int64,
        "low": pl.Float64, "high": pl.Float64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=kinds, orient="row")


def distances(predictor: Predictor, read: Read, judged: np.ndarray, seed: int) -> pl.DataFrame:
    """How far from uniform the predictions' transforms are, feature by feature.

    Series are taken in an order that is drawn until they have `MOST_JUDGED` judged events, so that it costs little.

    Args:
        predictor: of the stream.
        read: the stream.
        judged: (places,) bool, the events to judge by.
        seed: of every draw.

    Returns:
        Columns feature (Int64, its number), events, own and population (Float64, the distance; null without events).
    """
    draws = np.random.default_rng(seed)
    counts = np.add.reduceat(judged.astype(np.int64), read.begin)
    drawn = draws.permutation(np.flatnonzero(counts))
    drawn = np.sort(drawn[: 1 + np.searchsorted(np.cumsum(counts[drawn]), MOST_JUDGED)])
    chosen = dataclasses.replace(only(read, drawn), judged=judged)
    found: dict[tuple[int, str], list[np.ndarray]] = {}

    def take(judge: str, heads: tuple[Head, ...], places: Tensor, parameters: Tensor) -> None:
        for number, head in enumerate(heads):
            values = transforms(head, head.of(parameters), read.targets.at(places), draws)
            found.setdefault((number, judge), []).append(values)

    for places, parameters in predictions(predictor, chosen):
        take("own", predictor.own, places, parameters)
    for places in events_judged(chosen):
        take("population", predictor.common, places, predictor.population)
    rows = []
    for number in range(len(predictor.common)):
        own, population = (np.concatenate([*found.get((number, judge), []), np.empty(0)]) for judge in JUDGES)
        rows.append((number, int((~np.isnan(population)).sum()), kolmogorov(own), kolmogorov(population)))
    kinds = {"feature": pl.Int64, "events": pl.Int64, "own": pl.Float64, "population": pl.Float64}
    return pl.DataFrame(rows, schema=kinds, orient="row").with_columns(pl.col("own", "population").fill_nan(None))


def transforms(head: Head, parameters: Tensor, targets: Targets, draws: np.random.Generator) -> np.ndarray:
    """The randomised probability integral transform of one feature: (events,), NaN where missing.

    Between P(Z < z) and P(Z <= z) it is drawn evenly, for a number over the step it was rounded to. Categories have no
    order of their own; they are put in that of their probability, the least likely first, so that a small value is a
    rare category.

    Args:
        head: whose prediction it is.
        parameters: (events, size) or (size,) float64, as predicted.
        targets: the features of the events, each (events, features).
        draws: of the place between the two ends.
    """
    value = targets.value[..., head.feature]
    known = ~torch.isnan(value)
    parameters = parameters.expand(*value.shape, parameters.shape[-1])
    if head.family in NUMERIC:
        ends = (torch.where(known, end[..., head.feature], 0) for end in (targets.below, targets.above))
        low, high = (log_tails(head, parameters, end)[0].exp() for end in ends)
        low = torch.where(value == head.zero, 0.0, low)  # nothing lies below a zero with a probability of its own
    else:
        log_p = log_probabilities(head, parameters)
        own = log_p.gather(-1, torch.where(known, value, 0).long().unsqueeze(-1))
        low = torch.where(log_p < own, log_p, -math.inf).logsumexp(-1).exp()
        high = torch.where(log_p <= own, log_p, -math.inf).logsumexp(-1).exp()
    low, high = low.numpy(), high.numpy()
    drawn = low + draws.random(low.shape) * np.maximum(high - low, 0.0)
    return np.where(known.numpy(), np.clip(drawn, 0.0, 1.0), math.nan)


def kolmogorov(transformed: np.ndarray) -> float:
    """The largest distance between the distribution of values and the uniform one, 0 to 1; NaN without values.

    By chance alone it is about 0.87 / sqrt(values), and 1.36 / sqrt(values) or more once in twenty times.

    Args:
        transformed: (events,) between 0 and 1; NaN is left out.
    """
    u = np.sort(transformed[~np.isnan(transformed)])
    if u.size == 0:
        return math.nan
    steps = np.arange(u.size + 1) / u.size
    return float(max((steps[1:] - u).max(), (u - steps[:-1]).max()))
