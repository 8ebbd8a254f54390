"""Why an event has its score, in words that are made from the predictions it was held against.

A reason reads "amount 1,034; usually 20 to 60 (own history); 9 weeks since the last event, 14 earlier events": what
came in the feature that decided, the range that the prediction gave nine in ten, whose prediction it was, and where in
its series the event stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import polars as pl

from gapcell.detect.events import GAP, EventTable
from gapcell.detect.features import FeatureSpec
from gapcell.detect.results import NOTHING_ASIDE, Aside, Feature
from gapcell.detect.scoring import HIGH, LOW, Scored
from gapcell.detect.wording import amount_ranges, amounts, counted, duration_ranges, durations, printable, probability

REPORTS = "reports"  # the kind of the feature that counts the events of a series that were lately reported
USUAL = -math.log(1 - (HIGH - LOW))  # a part below it lies in the expected range
LONGEST_NAME = 40
OWN, EVERYONE, FIRST = "own history", "all events", "first events"


def reasons(
    table: EventTable,
    specs: tuple[FeatureSpec, ...],
    features: tuple[Feature, ...],
    scored: Scored,
    aside: Aside = NOTHING_ASIDE,
) -> pl.Series:
    """One reason an event, in the order of the table.

    Args:
        table: the events.
        specs: how each feature is encoded.
        features: the same features as scored.
        scored: in the order of the table.
        aside: what came beside the columns, and the probability under a supervised score.
    """
    values = {feature.name: values_of(table, feature, aside) for feature in features}
    words = np.full(len(table.codes), "", dtype=object)
    for number, (spec, feature) in enumerate(zip(specs, features, strict=True)):
        at = np.flatnonzero(scored.feature == number)
        if at.size == 0:
            continue
        part = np.where(scored.by_population[at], scored.population[at, number], scored.own[at, number])
        lead = np.where(part < USUAL, "as expected: ", "").astype(object)
        came = came_in_words(spec, feature.stream, values[feature.name].gather(at), whole=days_only(table))
        usual = expected_in_words(spec, feature.tail, scored.low[at], scored.high[at], least_of(values[feature.name]))
        words[at] = lead + came + "; usually " + usual + whose(table, scored, feature, at)
    words = with_context(with_alarm(words, aside.alarm), table, scored, features)
    words = with_unscored(words, values, features, scored, table.earlier())
    return pl.Series("reason", words.tolist(), dtype=pl.String)


def values_of(table: EventTable, feature: Feature, aside: Aside = NOTHING_ASIDE) -> pl.Series:
    """What came of a feature: (rows,), null where it is missing."""
    column = feature.column or feature.name
    if feature.name not in aside.derived and column in table.values.columns:
        return table.values[column]
    return pl.Series(column, aside.derived.get(feature.name, table.since_last())).fill_nan(None)


def days_only(table: EventTable) -> bool:
    """True where times are dates."""
    return table.time.dtype.is_temporal() and not table.reading.has_hours


def since_last(seconds: np.ndarray, *, whole: bool) -> np.ndarray:
    """Times since the last event (rows,) in words; where times are dates, none is the same day and not 0 seconds."""
    words = durations(seconds) + " since the last event"
    return np.where((seconds == 0) & whole, "the same day as the last event", words)


def came_in_words(spec: FeatureSpec, key: str | None, values: pl.Series, *, whole: bool) -> np.ndarray:
    """What came, with the feature's name.

    Args:
        spec: of the feature.
        key: of its stream, None in that of the entities.
        values: (rows,) without nulls.
        whole: True where times are dates.
    """
    if spec.kind == "gap":
        return since_last(values.to_numpy(), whole=whole) + of_key(key)
    name = printable(spec.name, LONGEST_NAME)
    if is_reports(spec):
        return counts(values, "recent event") + of_key(key) + " reported"
    if spec.kind == "numeric":
        return f"{name} " + amounts(values.to_numpy())
    if spec.kind == "boolean":
        return f"{name} " + np.where(values.to_numpy(), "yes", "no").astype(object)
    return each_once(values, lambda value: f"{name} {category(spec, value)}")


def is_reports(spec: FeatureSpec | Feature) -> bool:
    """Whether a feature counts reports; its kind tells it from a column that happens to have the name."""
    return spec.kind == REPORTS


def of_key(key: str | None) -> str:
    """Of which stream's events: nothing for the entity's, as it goes without saying."""
    return "" if key is None else f" of this {printable(key, LONGEST_NAME)}"


def title_of(feature: Feature) -> str:
    """A feature's name as a title; those that are made of times and reports say what they are."""
    if feature.kind == "gap":
        return f"time since the last event{of_key(feature.stream)}"
    if is_reports(feature):
        return f"recent reports{of_key(feature.stream)}"
    by = "" if feature.stream is None else f", by {printable(feature.stream, LONGEST_NAME)}"
    return f"{printable(feature.column or feature.name)}{by}"


def each_once(values: pl.Series, words: Callable[[object], str]) -> np.ndarray:
    """Words for values (rows,) without nulls; each different one is worded once."""
    different = values.unique()
    texts = pl.Series([words(value) for value in different.to_list()], dtype=pl.String)
    return values.replace_strict(different, texts, return_dtype=pl.String).to_numpy().astype(object)


def counts(values: pl.Series, what: str) -> np.ndarray:
    """Counts of something in words; older ones may count for less, and are rounded."""
    return each_once(values.round().cast(pl.Int64), lambda count: counted(count, what))  # pyrefly: ignore[bad-argument-type]  # Int64


def category(spec: FeatureSpec, value: object) -> str:
    """A category that came."""
    seldom = "" if value in spec.categories else " (seldom or never seen in training)"
    return f"{printable(value, LONGEST_NAME)!r}{seldom}"


def least_of(values: pl.Series) -> float:
    """The least that makes sense of a number: 0 where none is negative, so that no one is said to pay -1.50."""
    negative = values.dtype == pl.Float64 and (values < 0).any()
    return -math.inf if negative else 0.0


def expected_in_words(
    spec: FeatureSpec, tail: str, low: np.ndarray, high: np.ndarray, least: float = -math.inf
) -> np.ndarray:
    """What was expected: a range, one end of it, or the likeliest category with its probability.

    Args:
        spec: of the feature.
        tail: which side of a number is anomalous.
        low: (rows,) as `Scored.low`: scaled, or the number of a category.
        high: (rows,) as `Scored.high`: scaled, or the probability of that category.
        least: that makes sense of a number.
    """
    if spec.scaling is None:
        different, place = np.unique(np.stack([low, np.round(high, 2)]), axis=1, return_inverse=True)
        texts = [favourite(likeliest(spec, int(number)), p) for number, p in different.T.tolist()]
        return np.array(texts, dtype=object)[place.ravel()]
    return range_in_words(spec.kind, tail, in_units(spec, low, least), in_units(spec, high, least))


def range_in_words(kind: str, tail: str, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Ranges (rows,) in the column's unit, by the side on which a number is anomalous."""
    ranges = duration_ranges if kind == "gap" else amount_ranges
    if tail == "upper":
        return "up to " + ranges(high, high)[1]
    if tail == "lower":
        return "at least " + ranges(low, low)[1]
    first, last = ranges(low, high)
    return np.where(first == last, last, first + " to " + last)


def likeliest(spec: FeatureSpec, number: int) -> str:
    """The category with this number, in quotes; yes or no."""
    if spec.kind == "boolean":
        return "yes" if number else "no"
    known = number < len(spec.categories)
    return repr(printable(spec.categories[number], LONGEST_NAME)) if known else "another one"


def favourite(name: str, p: float) -> str:
    """The likeliest category with its probability."""
    return f"{name}, {100 * p:.0f} %"


def whose(table: EventTable, scored: Scored, feature: Feature, at: np.ndarray) -> np.ndarray:
    """Whose prediction decided, in brackets: (at,)."""
    words = np.where(table.earlier()[at] > 0, f" ({OWN})", f" ({FIRST})").astype(object)
    if feature.stream is not None:
        words[:] = f" (history{of_key(feature.stream)})"
    words[scored.by_population[at]] = f" ({EVERYONE})"
    return words


def in_units(spec: FeatureSpec, z: np.ndarray, least: float = -math.inf) -> np.ndarray:
    """Scaled values in the column's unit, as fine as the column counts: 3 CDs and not 2.87; other kinds unchanged."""
    if spec.scaling is None:
        return z
    values, step = np.maximum(spec.scaling.backward(z), least), spec.scaling.step
    if spec.kind == "gap":
        return np.round(values / step) * step if step else values
    return np.round(values) if step >= 1 else values


def with_alarm(words: np.ndarray, alarm: np.ndarray | None) -> np.ndarray:
    """Reasons of a supervised score begin with its probability."""
    if alarm is None:
        return words
    at = np.flatnonzero((words != "") & ~np.isnan(alarm))
    different, place = np.unique(np.round(alarm[at], 4), return_inverse=True)
    lead = np.array([f"probability {probability(p)}, above all because " for p in different.tolist()], dtype=object)
    words = words.copy()
    words[at] = lead[place] + words[at]
    return words


def with_context(words: np.ndarray, table: EventTable, scored: Scored, features: tuple[Feature, ...]) -> np.ndarray:
    """The same words with where in its series each event stands: 9 weeks since the last event, 14 earlier events."""
    history = table.earlier()
    numbers, place = np.unique(history, return_inverse=True)
    earlier = np.array([counted(number, "earlier event") for number in numbers.tolist()], dtype=object)[place]
    said = np.array([feature.name == GAP for feature in features] + [True])[scored.feature]
    after = np.flatnonzero(~said & (history > 0))
    since = np.full(len(words), "", dtype=object)
    since[after] = since_last(table.since_last()[after], whole=days_only(table)) + ", "
    return np.where(scored.feature >= 0, words + "; " + since + earlier, words)


def with_unscored(
    words: np.ndarray,
    values: Mapping[str, pl.Series],
    features: tuple[Feature, ...],
    scored: Scored,
    history: np.ndarray,
) -> np.ndarray:
    """The same words with what was not scored and why; a first event needs no word about the time before it."""
    silent = words == ""
    why = np.full(len(words), "", dtype=object)
    for number, feature in enumerate(features):
        if feature.stream is not None or not feature.scored:  # a column is missing in all streams at once
            continue
        gone = np.isnan(scored.own[:, number]) & values[feature.name].is_null().to_numpy()
        if feature.kind == "gap":
            gone &= silent | (history > 0)
        why[gone] += f", {not_scored(feature)}"
    told, without = np.flatnonzero(why != ""), silent & (why == "")
    cut = np.array([text[2:] for text in why[told].tolist()], dtype=object)
    words = words.copy()
    words[told] = np.where(silent[told], "not scored: " + cut, words[told] + " (not scored: " + cut + ")")
    words[without] = "not scored: none of its features is to be scored"
    return words


def not_scored(feature: Feature) -> str:
    """Why a feature without a value has no score."""
    if feature.kind == "gap":
        return f"no earlier event{of_key(feature.stream)} to measure the time from"
    if is_reports(feature):
        return f"it has no {printable(feature.stream or 'stream', LONGEST_NAME)}"
    return f"{printable(feature.column or feature.name, LONGEST_NAME)} is missing"


def expectation_columns(
    table: EventTable, spec: FeatureSpec, low: np.ndarray, high: np.ndarray, name: str | None = None
) -> dict[str, np.ndarray]:
    """What was expected of a feature, as columns of `Detection.bands`.

    Args:
        table: the events.
        spec: of the feature.
        low: (rows,) as `Scored.low`.
        high: (rows,) as `Scored.high`.
        name: of the feature where it is not that of the column, as in a further stream.
    """
    name = name or spec.name
    if spec.scaling is not None:
        least = least_of(table.values[spec.name]) if spec.name in table.values.columns else 0.0
        return {f"low_{name}": in_units(spec, low, least), f"high_{name}": in_units(spec, high, least)}
    names = np.array([likeliest(spec, number) for number in range(max(2, len(spec.categories) + 1))], dtype=object)
    return {f"likeliest_{name}": names[low.astype(np.int64)], f"probability_{name}": high}
