"""The highest alerts in words and charts, each in the history of its entity."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import polars as pl
from markupsafe import Markup

from gapcell.detect import charts
from gapcell.detect.results import Detection, Feature, Progress
from gapcell.detect.wording import amount, duration, moment, odds, printable, whole_days

DRAWN = 12  # alerts that get a chart; the others are in the list
BEFORE, AFTER = 120, 20  # events around the marked one that a chart shows
LINES = 7  # categories that a chart names beside the marked one


@dataclass(frozen=True)
class Fact:
    """One feature of an alert: what came, what was expected, and how unlikely that is."""

    feature: str
    value: str
    expected: str
    odds: str
    decided: bool


@dataclass(frozen=True)
class Alert:
    """One alert as the page shows it."""

    rank: int
    entity: str
    when: str
    score: str
    reason: str
    part: str
    truth: str
    history: str
    facts: tuple[Fact, ...]
    chart: Markup | None


def highest_alerts(detection: Detection, progress: Progress) -> list[Alert]:
    """The highest alerts, best first."""
    made = []
    for place, row in enumerate(detection.top.iter_rows(named=True)):
        progress("report", place, detection.top.height)
        feature = next(feature for feature in detection.features if feature.name == row["feature"])
        past = past_of(detection, row["row"], feature) if place < DRAWN else None
        made.append(
            Alert(
                rank=place + 1,
                entity=printable(row["entity"]),
                when=shown_moment(detection, detection.table.time[row["row"]]),
                score=score_in_words(row["score"]),
                reason=printable(row["reason"], longest=400),
                part=row["part"],
                truth=truth(detection, row["row"]),
                history="no history" if row["history"] == 0 else f"event {row['history'] + 1:,} of the entity",
                facts=tuple(facts(detection, row["row"], row["feature"])),
                chart=None if past is None else charts.draw(charts.history(past), describe(past)),
            )
        )
    if made:
        progress("report", len(made), len(made))
    return made


def score_in_words(score: float) -> str:
    """A score to one decimal; what lies beyond the thousands says no more than that."""
    return f"{score:.1f}" if score < 1000 else "over 1,000"


def truth(detection: Detection, row: int) -> str:
    """What the label says of an event; nothing where there is no label."""
    if detection.table.label is None:
        return ""
    return {True: "labelled", False: "not labelled", None: "label unknown"}[detection.table.label[row]]


def facts(detection: Detection, row: int, decided: str) -> list[Fact]:
    """Every scored feature of one event."""
    event = detection.frame.row(row, named=True)
    history = detection.history(row)
    place = history["row"].to_list().index(row)
    made = []
    for feature in detection.features:
        words = writer(detection, feature)
        values, limits = values_of(history, feature), limits_of(history, feature)[place]
        if limits is None:
            expected = commonest(values[:place], feature, words)
        else:
            expected = f"{words(limits[0])} to {words(limits[1])}"
        parts = (event[f"score_own_{feature.name}"], event[f"score_population_{feature.name}"])
        far = odds_of(max((score for score in parts if score is not None), default=None))
        made.append(Fact(printable(feature.name), words(values[place]), expected, far, feature.name == decided))
    return made


def values_of(history: pl.DataFrame, feature: Feature) -> pl.Series:
    """A feature's values in `Detection.history`, which gives way where its name is one of the history's own."""
    own = {"row", "time", "score", "alert", "part"}
    return history[f"value_{feature.name}" if feature.name in own else feature.name]


def limits_of(history: pl.DataFrame, feature: Feature) -> list[tuple[float, float] | None]:
    """The range in which each event's value was expected; None where there is none."""
    names = [f"low_{feature.name}", f"high_{feature.name}"]
    if not set(names) <= set(history.columns):
        return [None] * history.height
    return [None if low is None or high is None else (low, high) for low, high in history.select(names).iter_rows()]


def commonest(earlier: pl.Series, feature: Feature, words: Callable[[object], str]) -> str:
    """What a category most often was before; a dash for numbers, and where there was nothing."""
    known = earlier.drop_nulls()
    if feature.kind not in {"categorical", "boolean"} or known.len() == 0:
        return "—"
    value, count = known.value_counts(sort=True).row(0)
    return f"{words(value)} in {count:,} of {known.len():,} before"


def writer(detection: Detection, feature: Feature) -> Callable[[object], str]:
    """How values of a feature are written: in their unit, and as fine as the table has them."""
    if feature.kind == "gap":
        number = whole_days if days_only(detection) else duration
    elif feature.kind == "numeric" and (detection.table.values[feature.name].drop_nulls() % 1 == 0).all():
        number = lambda value: amount(round(value))  # noqa: E731  # a name would say no more
    else:
        number = amount

    def words(value: object) -> str:
        if value is None:
            return "missing"
        if isinstance(value, bool):
            return "yes" if value else "no"
        return number(value) if isinstance(value, (int, float)) else printable(value, longest=40)

    return words


def days_only(detection: Detection) -> bool:
    """True where times are dates."""
    return detection.table.time.dtype.is_temporal() and not detection.table.reading.has_hours


def past_of(detection: Detection, row: int, feature: Feature) -> charts.Past | None:
    """The stretch of an entity's history around one event; None when there is no other event to see."""
    whole = detection.history(row)
    if whole.height < 2:
        return None
    place = whole["row"].to_list().index(row)
    first = max(0, place - BEFORE)
    seen = whole[first : place + AFTER + 1]
    words = writer(detection, feature)
    calendar = seen["time"].dtype.is_temporal()
    times = seen["time"].dt.timestamp("ms") if calendar else seen["time"]
    kind = {"numeric": "numeric", "gap": "duration"}.get(feature.kind, "category")
    values = values_of(seen, feature).to_list()
    waits = next(limits_of(seen, other) for other in detection.features if other.kind == "gap")
    return charts.Past(
        title="time since last" if feature.kind == "gap" else printable(feature.name, longest=30),
        kind=kind,  # pyrefly: ignore[bad-argument-type]  # one of the three
        calendar=calendar,
        times=times.to_list(),
        values=in_lines(values, words, place - first) if kind == "category" else values,
        expected=limits_of(seen, feature),
        waits=[None if limits is None else limits[1] * (1000 if calendar else 1) for limits in waits],
        alerts=seen["alert"].to_list(),
        marked=place - first,
        label=words(values[place - first]),
    )


def in_lines(values: list[object], words: Callable[[object], str], marked: int) -> list[str | None]:
    """Categories as a chart has room for: the commonest and the marked one by name, the rest as one."""
    named = [None if value is None else words(value) for value in values]
    common = {name for name, _ in Counter(name for name in named if name is not None).most_common(LINES)}
    kept = common | {named[marked]}
    return [name if name is None or name in kept else "(others)" for name in named]


def describe(past: charts.Past) -> str:
    """A history chart for those who cannot see it."""
    missing = sum(value is None for value in past.values)
    return f"{len(past.times)} events of this entity over time by {past.title}; the event marked has {past.label}" + (
        f"; {missing} values are missing" if missing else ""
    )


def odds_of(score: float | None) -> str:
    """What a score says: how seldom a value is this far out, by the prediction it was held against."""
    if score is None:
        return "—"
    return "usual" if score < math.log(5) else odds(math.exp(min(score, 700)))


def shown_moment(detection: Detection, time: object) -> str:
    """A time of the table in words."""
    return moment(time, has_hours=detection.table.reading.has_hours)  # pyrefly: ignore[bad-argument-type]
