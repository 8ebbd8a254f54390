"""Days, weeks and hours: the cell of a calendar grid in which each event falls."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from gapcell.detect.events import EventTable
from gapcell.detect.refusals import TableError

DAY, HOUR = 86_400, 3_600
THURSDAY = 3  # the weekday of 1970-01-01, Monday being 0
SITES = {("day", "hour"): 24, ("week", "weekday"): 7, ("week", "hour"): 168}


@dataclass(frozen=True, eq=False)
class Cells:
    """Where events are on a grid.

    Attributes:
        step: (rows,) int64 from 0, the table's first step.
        site: (rows,) int64.
        steps: T.
        sites: L.
        starts: (T,) float64, the second at which each step begins.
    """

    step: np.ndarray
    site: np.ndarray
    steps: int
    sites: int
    starts: np.ndarray


def refuse_pair(table: EventTable, step: str, site: str) -> None:
    """Refuse a step and a site that make no grid, and hours where the times of a table are dates.

    Raises:
        ValueError: naming the two.
    """
    if (step, site) not in SITES:
        pairs = ", ".join(f"{step!r} with {site!r}" for step, site in SITES)
        raise ValueError(f"step (={step!r}) with site (={site!r}) makes no grid: there are {pairs}")
    if site == "hour" and on_the_calendar(table) and not table.reading.has_hours:
        raise TableError(f"time column {table.reading.time!r} holds dates without hours, so no event has an hour: give "
                         "step='week', site='weekday'")  # fmt: skip


def on_the_calendar(table: EventTable) -> bool:
    """True where times are dates, False where they are seconds from an unknown start."""
    return table.time.dtype != pl.Float64


def cells_of(table: EventTable, step: str, site: str) -> Cells:
    """The cell of each row, from the table's first step to its last."""
    calendar = on_the_calendar(table)
    day = np.floor(table.seconds / DAY).astype(np.int64)
    hour = np.floor((table.seconds - day * DAY) / HOUR).astype(np.int64)
    to_monday = THURSDAY if calendar else 0
    number = day if step == "day" else (day + to_monday) // 7
    weekday = (day + to_monday) % 7
    place = {("day", "hour"): hour, ("week", "weekday"): weekday, ("week", "hour"): weekday * 24 + hour}[step, site]
    first, last = int(number.min()), int(number.max())
    numbers = np.arange(first, last + 1)
    starts = numbers * DAY if step == "day" else (numbers * 7 - to_monday) * DAY
    return Cells(number - first, place, len(numbers), SITES[step, site], starts.astype(np.float64))


def starts_of_steps(table: EventTable, cells: Cells) -> pl.Series:
    """When each step begins, as the table's times: (T,)."""
    if not on_the_calendar(table):
        return pl.Series("step", cells.starts)
    return pl.Series("step", (cells.starts * 1e6).astype(np.int64)).cast(table.time.dtype)
