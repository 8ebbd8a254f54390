"""One event explained: every feature against what was expected of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from gapcell.detect.events import GAP
from gapcell.detect.reasons import (
    EVERYONE,
    FIRST,
    OWN,
    days_only,
    favourite,
    not_scored,
    of_key,
    range_in_words,
    since_last,
    title_of,
    values_of,
)
from gapcell.detect.results import Detection, Feature
from gapcell.detect.wording import amount, counted, duration, odds, printable, whole_days

UNREMARKABLE = math.log(5)  # a part below it is called usual


@dataclass(frozen=True)
class Fact:
    """One feature of an event: what came, what was expected and by whom, and how unlikely that is.

    Attributes:
        feature: its name.
        title: its name as people read it.
        value: what came, as the table has it; seconds for a time since the last event; None where missing.
        came: the same in words.
        expected: the range with nine tenths of the probability, its end on the side that is anomalous, or the likeliest
            category with its probability; "—" where that is not known.
        whose: whose prediction found the value stranger, and is the one in `expected`: "own history", "all events",
            "first events" (of an entity without history), or "history of this terminal".
        probability: of something at least as extreme, by that prediction; None where not scored.
        not_scored: why there is no score; None where there is one.
        decided: whether this feature gave the event its score.
    """

    feature: str
    title: str
    value: float | str | bool | None
    came: str
    expected: str
    whose: str
    probability: float | None
    not_scored: str | None
    decided: bool

    @property
    def odds(self) -> str:
        """The probability as people say it: "1 in 4,000", or "usual"; "—" where not scored."""
        if self.probability is None:
            return "—"
        return "usual" if self.probability > math.exp(-UNREMARKABLE) else odds(1 / max(self.probability, 1e-300))


@dataclass(frozen=True, eq=False)
class Judge:
    """One of the predictions an event is held against.

    Attributes:
        name: as in the frame's columns: score_NAME_FEATURE.
        whose: prediction it is, in words.
        known: a row of `Detection.bands` or `Detection.common`.
    """

    name: str
    whose: str
    known: Mapping[str, object]


@dataclass(frozen=True)
class Explanation:
    """Why one event has its score; as text it is the sentence.

    Attributes:
        row: place of the event in the table.
        entity: whose event it is.
        score: None where nothing could be scored.
        alert: whether the score is above the threshold.
        sentence: the reason, as in `Detection.frame`.
        context: where in its series the event stands: "9 weeks since the last event; 14 earlier events".
        facts: one a feature, in the order of `Detection.features`.
    """

    row: int
    entity: str | int | float
    score: float | None
    alert: bool
    sentence: str
    context: str
    facts: tuple[Fact, ...]

    def __str__(self) -> str:
        """The sentence."""
        return self.sentence


def one_row(row: int, rows: int) -> int:
    """The place of an event in a table of so many; refused where there is none."""
    if not 0 <= row < rows:
        raise IndexError(f"row (={row}) is not in the table, whose {rows:,} events are numbered from 0")
    return int(row)


def explanation(detection: Detection, row: int) -> Explanation:
    """Explain one event of a detection.

    Args:
        detection: ranges are known of the entities in `Detection.bands`; of others the population's alone.
        row: place of the event in the table.
    """
    event = detection.frame.row(row, named=True)
    own = detection.bands.filter(pl.col("row") == row)
    ranges = {} if own.height == 0 else own.row(0, named=True)
    common = {} if detection.common.height == 0 else detection.common.row(0, named=True)
    code, table = int(detection.table.codes[row]), detection.table
    rows = table.rows_of(code)
    place = int(np.flatnonzero(rows == row)[0])
    earlier = counted(place, "earlier event")
    since = float(table.seconds[row] - table.seconds[rows[place - 1]]) if place else 0.0
    whole = days_only(table)
    values = [value_at(detection, feature, row, since if place else None) for feature in detection.features]
    facts = tuple(
        fact(feature, value, event, judges_of(feature, place, ranges, common), whole=whole)
        for feature, value in zip(detection.features, values, strict=True)
    )
    return Explanation(
        row=row,
        entity=event["entity"],
        score=event["score"],
        alert=event["alert"],
        sentence=event["reason"],
        context=f"{since_last(np.array([since]), whole=whole)[0]}; {earlier}" if place else earlier,
        facts=facts,
    )


def judges_of(
    feature: Feature, history: int, ranges: Mapping[str, object], common: Mapping[str, object]
) -> list[Judge]:
    """The predictions a feature of an event is held against: its stream's own, and the population's."""
    own = OWN if history else FIRST
    whose = own if feature.stream is None else f"history{of_key(feature.stream)}"
    return [Judge("own", whose, ranges), Judge("population", EVERYONE, common)]


def value_at(detection: Detection, feature: Feature, row: int, since: float | None) -> float | str | bool | None:
    """What came of a feature in one event."""
    if feature.name == GAP:
        return since
    return values_of(detection.table, feature, detection.aside)[row]


def fact(
    feature: Feature,
    value: float | str | bool | None,
    event: Mapping[str, object],
    judges: Sequence[Judge],
    *,
    whole: bool,
) -> Fact:
    """One feature of an event.

    Args:
        feature: which.
        value: what came.
        event: the row of `Detection.frame`.
        judges: the predictions it is held against.
        whole: True where times are dates.
    """
    parts = {judge: event.get(f"score_{judge.name}_{feature.name}") for judge in judges}
    scored = {judge: part for judge, part in parts.items() if isinstance(part, float)}
    strangest = max(scored, key=scored.__getitem__, default=judges[0])
    why = None if scored else not_scored(feature) if value is None and feature.scored else "it is not to be scored"
    return Fact(
        feature=feature.name,
        title=title_of(feature),
        value=value,
        came=in_words(feature, value, whole=whole),
        expected=expected_words(feature, strangest),
        whose=strangest.whose,
        probability=math.exp(-scored[strangest]) if scored else None,
        not_scored=why,
        decided=event["feature"] == feature.name,
    )


def in_words(feature: Feature, value: float | str | bool | None, *, whole: bool) -> str:
    """A value in words: missing, yes, 3.2 hours, the same day, 1,286.01."""
    if value is None:
        return "none" if feature.kind == "gap" else "missing"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        time = whole_days if whole else duration
        return time(float(value)) if feature.kind == "gap" else amount(float(value))
    return printable(value, 40)


def expected_words(feature: Feature, judge: Judge) -> str:
    """What one of the predictions expected of a feature; a dash where that is not known."""
    low, high, name, p = (
        judge.known.get(f"{what}_{feature.name}") for what in ("low", "high", "likeliest", "probability")
    )
    if isinstance(low, float) and isinstance(high, float):
        return range_in_words(feature.kind, feature.tail, np.array([low]), np.array([high]))[0]
    return favourite(str(name), p) if isinstance(p, float) else "—"
