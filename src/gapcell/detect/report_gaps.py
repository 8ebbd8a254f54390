"""The report's view of gaps: time between events, series lengths, missing values, and what was not scored and why."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from gapcell.detect import charts
from gapcell.detect.reasons import days_only, not_scored, title_of, values_of
from gapcell.detect.results import Detection, Summary
from gapcell.detect.wording import printable, share

LENGTH_BINS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
WAIT_BINS = (
    ("under a minute", 60), ("under an hour", 3_600), ("under a day", 86_400), ("1 to 7 days", 604_800),
    ("7 to 30 days", 2_592_000), ("30 to 90 days", 7_776_000), ("90 days to a year", 31_557_600),
    ("over a year", math.inf),
)  # fmt: skip
MISSING_BINS = (("none", 0.0), ("up to 10 %", 0.1), ("10 to 50 %", 0.5), ("over 50 %", 1.0))


@dataclass(frozen=True)
class Missing:
    """What is missing of one column: events, and entities that lack it at least once and always."""

    name: str
    events: str
    percent: float
    some: str
    always: str


def lengths_chart(detection: Detection) -> Markup:
    """How many entities have how many events."""
    lengths = np.diff(detection.table.starts)
    counts, _ = np.histogram(lengths, [*LENGTH_BINS, math.inf])
    names = [
        f"{low}" if high == low + 1 else f"{low} to {high - 1}" for low, high in itertools.pairwise(LENGTH_BINS)
    ] + [f"{LENGTH_BINS[-1]:,} or more"]
    return counted_bars(names, counts, "entities by number of events")


def waits_chart(detection: Detection) -> Markup | None:
    """How often an entity waits how long; None when no entity has two events."""
    waits = detection.table.since_last()
    waits = waits[~np.isnan(waits)]
    if len(waits) == 0:
        return None
    bins = (("the same day", 86_400), *WAIT_BINS[3:]) if days_only(detection.table) else WAIT_BINS
    counts, _ = np.histogram(waits, [0, *(limit for _, limit in bins)])
    return counted_bars([name for name, _ in bins], counts, "waits between events")


def counted_bars(names: list[str], counts: np.ndarray, description: str) -> Markup:
    """Bars of counts without the empty ones at either end."""
    filled = np.flatnonzero(counts)
    rows = [charts.Bar(names[i], float(counts[i]), f"{counts[i]:,}") for i in range(filled[0], filled[-1] + 1)]
    return charts.draw(charts.bars(rows), f"{description}: " + "; ".join(f"{row.name} {row.label}" for row in rows))


def six_numbers(numbers: Summary, words: Callable[[float], str]) -> list[str]:
    """Smallest, quartiles, largest and mean in words; dashes where nothing was counted."""
    values = (
        numbers.minimum, numbers.lower_quartile, numbers.median, numbers.upper_quartile, numbers.maximum, numbers.mean,
    )  # fmt: skip
    return [words(value) if numbers.count else "—" for value in values]


def missing_columns(detection: Detection) -> list[Missing]:
    """Every column with a missing value, most first."""
    table = detection.table
    lengths, entities = np.diff(table.starts), len(table.starts) - 1
    found = []
    for column in table.reading.columns:
        gone = table.values[column.name].is_null().to_numpy()
        if not gone.any():
            continue
        lacking = np.bincount(table.codes[gone], minlength=entities)
        events, some, always = int(gone.sum()), int((lacking > 0).sum()), int((lacking == lengths).sum())
        words = (share(events, len(gone)), 100 * events / len(gone), share(some, entities), share(always, entities))
        found.append((events, Missing(printable(column.name), *words)))
    return [missing for _, missing in sorted(found, key=lambda pair: -pair[0])]


def missing_chart(detection: Detection) -> Markup | None:
    """How many entities lack which share of their values; None where nothing is missing."""
    table = detection.table
    if not table.values.width or not any(table.reading.missing):
        return None
    gone = sum(column.is_null().to_numpy().astype(np.int64) for column in table.values)
    shares = np.bincount(table.codes, weights=gone) / (np.diff(table.starts) * table.values.width)
    counts = np.bincount(np.searchsorted([limit for _, limit in MISSING_BINS], shares), minlength=len(MISSING_BINS))
    return counted_bars([name for name, _ in MISSING_BINS], counts, "entities by the share of their values missing")


def unscored(detection: Detection) -> list[tuple[str, str, str]]:
    """What was not scored: (feature, why, how many events), and in the end the events without any score."""
    rows = []
    for feature in detection.features:
        parts = detection.frame[f"score_own_{feature.name}"].is_null().to_numpy()
        gone = parts & values_of(detection.table, feature, detection.aside).is_null().to_numpy()
        name = title_of(feature)
        if gone.any():
            rows.append((name, not_scored(feature), f"{int(gone.sum()):,}"))
        if (parts & ~gone).any():
            rows.append((name, "it is not to be scored", f"{int((parts & ~gone).sum()):,}"))
    if detection.unscored:
        rows.append(("the whole event", "none of its features has a score", f"{detection.unscored:,}"))
    return rows
