"""The streams of a table: its events as one ragged series for each value of a key, reports of labels among them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

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
    """

    key: str
    row: np.ndarray
    report: np.ndarray
    seconds: np.ndarray
    starts: np.ndarray
    half_life: float | None

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
        return self.seconds[np.maximum.accumulate(happened)]  # a report follows its event, so that none comes first

    def since_last(self) -> np.ndarray:
        """Seconds since the series' previous event, NaN for its first and for reports: (places,) float64."""
        gaps = np.full(len(self.row), np.nan)
        gaps[1:] = self.seconds[1:] - self.last_event[:-1]
        gaps[self.starts[:-1]] = np.nan
        gaps[self.report] = np.nan
        return gaps

    def waited(self) -> np.ndarray:
        """Seconds since the place before, be it an event or a report, 0 at the start of a series: (places,) float64."""
        waited = np.diff(self.seconds, prepend=0.0)
        waited[self.starts[:-1]] = 0.0
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
        series = np.argsort(-length, kind="stable")  # the longest first, so that those still going on are a slice
        going = np.searchsorted(-length[series], -np.arange(1, length.max(initial=1)), side="left")
        for place, still in enumerate(going.tolist(), start=1):
            now = self.starts[series[:still]] + place
            count[now] = (count[now - 1] + self.report[now - 1]) * fades[now]
        count[self.report] = np.nan
        return count


def streams_of(table: EventTable, label_delay: float | None) -> tuple[Stream, ...]:
    """The streams of a table, that of the entities first.

    Args:
        table: the events; without labels nothing is reported.
        label_delay: seconds after which a labelled event is reported; None leaves reports out.
    """
    keys = [(table.reading.entity, table.codes)]
    keys += [(column.name, numbered(column)) for column in table.others]
    return tuple(stream_of(table, name, codes, label_delay) for name, codes in keys)


def stream_of(table: EventTable, key: str, codes: np.ndarray, label_delay: float | None) -> Stream:
    """The stream of one key, whose values are numbered by `codes` (rows,), -1 where an event has none."""
    row = np.flatnonzero(codes >= 0)
    report = np.zeros(len(row), dtype=bool)
    seconds = table.seconds[row]
    if label_delay is not None and table.label is not None:
        labelled = np.flatnonzero(table.label.fill_null(value=False).to_numpy() & (codes >= 0))
        row, report = np.append(row, labelled), np.append(report, np.ones(len(labelled), dtype=bool))
        seconds = np.append(seconds, table.seconds[labelled] + label_delay)
    order = np.lexsort((report, seconds, codes[row]))  # an event comes before a report of the same moment
    row, report, seconds = row[order], report[order], seconds[order]
    starts = np.searchsorted(codes[row], np.arange(codes.max(initial=-1) + 2))
    half_life = None if label_delay is None else max(label_delay, 1.0) / REPORT_MEMORY
    return Stream(key, row, report, seconds, starts, half_life)
