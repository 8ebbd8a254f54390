"""A page for each entity that has one of the highest alerts: its alerts, and every feature over its time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import polars as pl
from markupsafe import Markup

from gapcell.detect import charts
from gapcell.detect.alerts import Alert, shown_moment
from gapcell.detect.reasons import days_only, title_of
from gapcell.detect.results import Detection, Feature, Progress
from gapcell.detect.wording import amount, counted, duration, printable, whole_days

PAGES = 10  # entities that get a page; the others are in the list
DRAWN = 3  # features drawn on each, those that gave its alerts away first
BEFORE, AFTER = 120, 20  # events around the marked one that a chart shows
DETAILED = 3  # alerts of one entity that are shown with all their features; the others have a line each
LINES = 7  # categories that a chart names beside the marked one


@dataclass(frozen=True)
class EntityPage:
    """One flagged entity.

    Attributes:
        number: 1 is the entity with the highest alert.
        entity: its name.
        span: how many events it has, and from when to when.
        gaps: how many of its values are missing, and its longest time without an event.
        detailed: the first of those of it that are among the highest, best first.
        brief: the rest of them.
        others: how many more of its events alert.
        drawn: (title, chart) of each feature drawn.
    """

    number: int
    entity: str
    span: str
    gaps: str
    detailed: tuple[Alert, ...]
    brief: tuple[Alert, ...]
    others: int
    drawn: tuple[tuple[str, Markup], ...]


def entity_pages(detection: Detection, alerts: list[Alert], progress: Progress) -> list[EntityPage]:
    """The pages of the entities with the highest alerts, in the order of these."""
    codes = list(dict.fromkeys(alert.code for alert in alerts))[:PAGES]
    made = []
    for number, code in enumerate(codes, 1):
        progress("report", number - 1, len(codes))
        made.append(entity_page(detection, number, [alert for alert in alerts if alert.code == code]))
    if made:
        progress("report", len(made), len(made))
    return made


def entity_page(detection: Detection, number: int, alerts: list[Alert]) -> EntityPage:
    """The page of one entity, which has these alerts."""
    history = detection.history(alerts[0].row)
    return EntityPage(
        number=number,
        entity=alerts[0].entity,
        span=span(detection, history),
        gaps=gaps(detection, history),
        detailed=tuple(alerts[:DETAILED]),
        brief=tuple(alerts[DETAILED:]),
        others=int(history["alert"].sum()) - len(alerts),
        drawn=tuple(drawings(detection, history, alerts)),
    )


def span(detection: Detection, history: pl.DataFrame) -> str:
    """How many events an entity has, and from when to when."""
    times = detection.table.time[history["row"][0]], detection.table.time[history["row"][-1]]
    first, last = (shown_moment(detection, time) for time in times)
    return f"{counted(history.height, 'event')}, {first}" + (f" to {last}" if last != first else "")


def gaps(detection: Detection, history: pl.DataFrame) -> str:
    """How many values of an entity are missing, and its longest time without an event."""
    named = [column.name for column in detection.table.reading.columns]
    missing = sum(values_of(history, feature).null_count() for feature in detection.features if feature.name in named)
    said = [f"{counted(missing, 'value')} missing"]
    seconds = detection.table.seconds[history["row"].to_numpy()]
    if len(seconds) > 1:
        longest = float((seconds[1:] - seconds[:-1]).max())
        said.append(
            f"longest time without an event {(whole_days if days_only(detection.table) else duration)(longest)}"
        )
    return "; ".join(said)


def drawings(detection: Detection, history: pl.DataFrame, alerts: list[Alert]) -> list[tuple[str, Markup]]:
    """(title, chart) of the features of an entity with its highest alert ringed; none when it has but one event."""
    if history.height < 2:
        return []
    decided = [fact.feature for alert in alerts for fact in alert.facts if fact.decided]
    order = sorted(detection.features, key=lambda each: each.name not in decided)  # stable, so else as in the table
    made = []
    for feature in order[:DRAWN]:
        past = past_of(detection, history, alerts[0].row, feature)
        made.append((title_of(feature), charts.draw(charts.history(past), describe(past))))
    return made


def values_of(history: pl.DataFrame, feature: Feature) -> pl.Series:
    """A feature's values in `Detection.history`, which gives way where its name is one of the history's own."""
    names = (f"value_{feature.name}", feature.name, feature.column)
    return history[next(name for name in names if name in history.columns)]


def limits_of(history: pl.DataFrame, feature: Feature) -> list[tuple[float, float] | None]:
    """The range in which each event's value was expected; None where there is none."""
    names = [f"low_{feature.name}", f"high_{feature.name}"]
    if not set(names) <= set(history.columns):
        return [None] * history.height
    return [None if low is None or high is None else (low, high) for low, high in history.select(names).iter_rows()]


def writer(detection: Detection, feature: Feature) -> Callable[[object], str]:
    """How values of a feature are written: in their unit, and as fine as the table has them."""
    number = amount if feature.kind != "gap" else whole_days if days_only(detection.table) else duration

    def words(value: object) -> str:
        if value is None:
            return "missing"
        if isinstance(value, bool):
            return "yes" if value else "no"
        return number(value) if isinstance(value, (int, float)) else printable(value, longest=40)

    return words


def past_of(detection: Detection, history: pl.DataFrame, row: int, feature: Feature) -> charts.Past:
    """The stretch of an entity's history around one event."""
    place = history["row"].to_list().index(row)
    first = max(0, place - BEFORE)
    seen = history[first : place + AFTER + 1]
    words = writer(detection, feature)
    calendar = seen["time"].dtype.is_temporal()
    times = seen["time"].dt.timestamp("ms") if calendar else seen["time"]
    kind = {"numeric": "numeric", "reports": "numeric", "gap": "duration"}.get(feature.kind, "category")
    values = values_of(seen, feature).to_list()
    waits = next((limits_of(seen, other) for other in detection.features if other.kind == "gap"), [None] * seen.height)
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
