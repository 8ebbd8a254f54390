"""The streams of a table: its events as one ragged series for each value of a key, reports of labels among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from gapcell.detect.carried import LAST, REPORTS, Carried
from gapcell.detect.events import EventTable, numbered

REPORT_MEMORY = 4  # half-lives of a report in the delay after which it comes


@dataclass(frozen=True, eq=False)
class Stream:
    """Places of a stream, sorted by series, then time: the events, and the reports of earlier ones.

    Attributes:
        key: the column that says whose event it is.
        row: (places,) int64, the row of the table that happens or is reported here.
        report: (places,) bool, True where a row is reported, False where it happens.
        seconds: (places,) float64.
        starts: (series + 1,) int64, where each series begins.
        half_life: seconds in which a report counts half; None where labels are not read.
        carried: what the series' earlier events have left behind; None where there are none.
        due: seconds of the reports of each series that come after its last event; empty unless something is carried.
    """

    key: str
    row: np.ndarray
    report: np.ndarray
    seconds: np.ndarray
    starts: np.ndarray
    half_life: float | None
    carried: Carried | None = None
    due: tuple[np.ndarray, ...] = ()

    @property
    def happens(self) -> np.ndarray:
        """Places at which events happen: (events,) int64."""
        return np.flatnonzero(~self.report)

    def ends(self, until: float) -> np.ndarray:
        """One past the last place before `until` of each series: (series,) int64."""
        before = np.append(0, np.cumsum(self.seconds < until))
        return self.starts[:-1] + before[self.starts[1:]] - before[self.starts[:-1]]

    @cached_property
    def last_event(self) -> np.ndarray:
        """Seconds of the series' last event at or before each place: (places,) float64."""
        happened = np.where(self.report, -1, np.arange(len(self.row)))
        latest = np.maximum.accumulate(happened)
        first = np.repeat(self.starts[:-1], np.diff(self.starts))
        earlier = np.repeat(self.earlier(LAST, np.nan), np.diff(self.starts))  # a report may come before any new event
        return np.where(latest >= first, self.seconds[latest], earlier)

    def earlier(self, field: str, nothing: float) -> np.ndarray:
        """A number that the earlier events have left behind, or `nothing`: (series,) float64."""
        if self.carried is None:
            return np.full(len(self.starts) - 1, nothing)
        return self.carried.records[field]

    def since_last(self) -> np.ndarray:
        """Seconds since the series' previous event, NaN for its first and for reports: (places,) float64."""
        gaps = np.full(len(self.row), np.nan)
        gaps[1:] = self.seconds[1:] - self.last_event[:-1]
        first = self.starts[:-1]
        gaps[first] = self.seconds[first] - self.earlier(LAST, np.nan)
        gaps[self.report] = np.nan
        return gaps

    def waited(self) -> np.ndarray:
        """Seconds since the place before, be it an event or a report, 0 at the start of a series: (places,) float64."""
        waited = np.diff(self.seconds, prepend=0.0)
        first = self.starts[:-1]
        # what is carried ends with an event, so that it is the place before
        waited[first] = np.nan_to_num(self.seconds[first] - self.earlier(LAST, np.nan))
        return waited

    @cached_property
    def recent_reports(self) -> np.ndarray:
        """Reports before each event, each halved with every half-life that has passed; NaN for reports: (places,).

        Raises:
            ValueError: labels are not read.
        """
        if self.half_life is None:
            raise ValueError("the stream has no reports: labels are not read without label_delay")
        fades = np.exp2(-self.waited() / self.half_life)
        length = np.diff(self.starts)
        count = np.zeros(len(self.row))
        first = self.starts[:-1]
        count[first] = self.earlier(REPORTS, 0.0) * fades[first]
        series = np.argsort(-length, kind="stable")  # the longest first, so that those still going on are a slice
        going = np.searchsorted(-length[series], -np.arange(1, length.max(initial=1)), side="left")
        for place, still in enumerate(going.tolist(), start=1):
            now = self.starts[series[:still]] + place
            count[now] = (count[now - 1] + self.report[now - 1]) * fades[now]
        count[self.report] = np.nan
        return count


def streams_of(
    table: EventTable, label_delay: float | None, known: Sequence[tuple[Series, Carried]] | None = None
) -> tuple[Stream, ...]:
    """The streams of a table, that of the entities first.

    Args:
        table: the events; without labels nothing is reported.
        label_delay: seconds after which a labelled event is reported; None leaves reports out.
        known: the series of the table, and what each has left behind; None for nothing.
    """
    all_series = known or [(series, None) for series in series_of(table)]
    return tuple(stream_of(table, series, label_delay, carried) for series, carried in all_series)


@dataclass(frozen=True, eq=False)
class Series:
    """Whose events the rows of a table are, by one key.

    Attributes:
        key: the column.
        codes: (rows,) int64, the number of the key's value, -1 where an event has none.
        names: (series,) String, the values as text.
    """

    key: str
    codes: np.ndarray
    names: pl.Series


def series_of(table: EventTable) -> tuple[Series, ...]:
    """The series of a table by each of its keys, that of the entities first."""
    keys = [(table.entity, table.codes), *((column, numbered(column)) for column in table.others)]
    return tuple(Series(column.name, codes, names_of(column, codes)) for column, codes in keys)


def names_of(column: pl.Series, codes: np.ndarray) -> pl.Series:
    """The values that are numbered by `codes` (rows,), as text and in the order of their numbers."""
    number, row = np.unique(codes, return_index=True)
    return column[row[number >= 0]].cast(pl.String)


def stream_of(table: EventTable, series: Series, label_delay: float | None, carried: Carried | None) -> Stream:
    """The stream of one key."""
    codes = series.codes
    row = np.flatnonzero(codes >= 0)
    report, seconds, due = np.zeros(len(row), dtype=bool), table.seconds[row], ()
    if label_delay is not None and table.label is not None:
        labelled = np.flatnonzero(table.label.fill_null(value=False).to_numpy() & (codes >= 0))
        when = table.seconds[labelled] + label_delay
        if carried is not None:
            labelled, when, due = come(table, codes, carried, labelled, when)
        row, report = np.append(row, labelled), np.append(report, np.ones(len(labelled), dtype=bool))
        seconds = np.append(seconds, when)
    order = np.lexsort((report, seconds, codes[row]))  # an event comes before a report of the same moment
    row, report, seconds = row[order], report[order], seconds[order]
    starts = np.searchsorted(codes[row], np.arange(codes.max(initial=-1) + 2))
    half_life = None if label_delay is None else max(label_delay, 1.0) / REPORT_MEMORY
    return Stream(series.key, row, report, seconds, starts, half_life, carried, due)


def come(
    table: EventTable, codes: np.ndarray, carried: Carried, labelled: np.ndarray, when: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """The reports that come before the last new event of their series, and those that are due after it.

    Args:
        table: the new events.
        codes: (rows,) their series.
        carried: with the reports of earlier events.
        labelled: (reports,) the rows that are to be reported.
        when: (reports,) seconds at which they are.

    Returns:
        Row and seconds of each report that comes, a row of its series standing for an earlier event, and for each
        series the seconds of those that do not.
    """
    there = np.flatnonzero(codes >= 0)
    any_row, last = np.zeros(len(carried.due), dtype=np.int64), np.full(len(carried.due), -np.inf)
    any_row[codes[there]] = there
    np.maximum.at(last, codes[there], table.seconds[there])
    old = np.repeat(np.arange(len(carried.due)), [len(times) for times in carried.due])
    row, series = np.append(any_row[old], labelled), np.append(old, codes[labelled])
    when = np.concatenate([*carried.due, when])
    now = when < last[series]
    later = np.flatnonzero(~now)
    later = later[np.lexsort((when[later], series[later]))]
    ends = np.searchsorted(series[later], np.arange(1, len(last)))
    return row[now], when[now], tuple(np.split(when[later], ends))[: len(last)]  # no series is one piece to NumPy
