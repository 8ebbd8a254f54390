"""Where time is cut into a training, a held-out and a test part."""

from __future__ import annotations

import math

import numpy as np
import polars as pl

from gapcell.detect.events import EventTable
from gapcell.detect.options import FitOptions
from gapcell.detect.refusals import TableError
from gapcell.detect.results import Split
from gapcell.detect.times import parse_times


def cut_time(table: EventTable, options: FitOptions) -> Split:
    """Where time is cut: at the stated times, or so that the parts have the stated shares of the events."""
    seconds = np.sort(table.seconds)
    if seconds[0] == seconds[-1]:
        what = "holds a single event" if len(seconds) == 1 else "has all its events at one time"
        raise TableError(f"the table {what}: a detector learns from earlier events and needs later ones")
    train_until = seconds[int(options.train_share * len(seconds))]
    test_from = seconds[min(math.ceil((1 - options.test_share) * len(seconds)), len(seconds) - 1)]
    if options.train_until is not None:
        train_until = moment_of(table, options.train_until, "train_until")
    if options.test_from is not None:
        test_from = moment_of(table, options.test_from, "test_from")
    held_out = seconds[(seconds >= train_until) & (seconds < test_from)]
    if held_out.size == 0 or seconds[0] >= train_until:
        empty = "training" if seconds[0] >= train_until else "held-out"
        raise TableError(f"the {empty} part is empty: no event lies there in time column {table.reading.time!r}; "
                         "choose train_until and test_from (or the shares) so that each part has events")  # fmt: skip
    middle = float(held_out[len(held_out) // 2])
    if middle == held_out[0]:  # one time has most of them: all of them choose, and those after it set the threshold
        later = held_out[held_out > middle]
        middle = float(later[0]) if later.size else middle
    return Split(float(train_until), middle, float(test_from))


def moment_of(table: EventTable, time: str | float, name: str) -> float:
    """A time given as an option, in seconds as the table has them."""
    if isinstance(time, str):
        if table.time.dtype == pl.Float64:
            raise TableError(f"{name} (={time!r}) is a date, but time column {table.reading.time!r} holds seconds")
        return float(parse_times(pl.Series(name, [time])).seconds[0])
    return float(time)
