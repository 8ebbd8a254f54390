"""Two ways to lay out a table of events as arrays with masks, each a scikit-learn transform with its inverse.

`EventWindows` keeps every event and forgets how far apart they are, but for a channel that says so. `CalendarGrid`
keeps the calendar and adds up what happens within an hour or a day. Neither scales anything, and neither learns more
from a table than its columns and categories.

Where a mask is False the arrays hold NaN, so that a network which does not read the mask shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from gapcell import masks
from gapcell.detect.calendar_cells import Cells, cells_of, refuse_pair, starts_of_steps
from gapcell.detect.columns import Column, require
from gapcell.detect.events import GAP, EventTable, read_table
from gapcell.detect.refusals import TableError
from gapcell.detect.times import MILLISECONDS, SECONDS, YMD

COUNT = "count"
TAKEN = ("entity", "step", "site", COUNT)


class EventLayout(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):
    """What both layouts share: how a table is read, at the fit and after it."""

    entity: str | None
    time: str | None
    values: Sequence[str | Column] | None
    columns_: tuple[Column, ...]

    def read_to_fit(self, X: Any) -> tuple[EventTable, tuple[Column, ...]]:
        """The table, a frame read by this layout's roles, and its columns in use; remembers the roles."""
        table = (
            X if isinstance(X, EventTable) else read_table(X, entity=self.entity, time=self.time, values=self.values)
        )
        reading = table.reading
        form = reading.time_form if reading.time_form in (SECONDS, MILLISECONDS, YMD) else None
        self.roles_ = {"entity": reading.entity, "time": reading.time, "numbers_as": form}
        if self.values is None:
            return table, reading.columns
        named = [value if isinstance(value, str) else value.name for value in self.values]
        for name in named:
            require(table.values, name, "value")
        return table, tuple(column for column in reading.columns if column.name in named)

    def read(self, X: Any) -> EventTable:
        """A table with the columns of the fit."""
        check_is_fitted(self)
        table = X if isinstance(X, EventTable) else read_table(X, values=self.columns_, **self.roles_)
        for column in self.columns_:
            require(table.values, column.name, "value")
            if column not in table.reading.columns:
                raise TableError(f"column {column.name!r} was {column.kind} at the fit, and is not here: give the "
                                 "frame, which is then read alike")  # fmt: skip
        return table


def sorted_entities(table: EventTable) -> tuple[pl.Series, np.ndarray]:
    """The entities in an order that the order of the rows does not change: (N,), and the place (N,) of each number."""
    entities = table.entity.gather(table.order[table.starts[:-1]])
    keys = entities.cast(pl.String) if entities.dtype in (pl.Categorical, pl.Enum) else entities
    order = keys.arg_sort().to_numpy().astype(np.int64)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return entities.gather(order), place


# Windows of events ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class EventSeries:
    """Events as padded series; N entities in sorted order, S events, a multiple of the window.

    Attributes:
        x: (N, S, C) float64, NaN where the mask is False.
        mask: (N, S, C) bool, True where a value is observed.
        lengths: (N,) int64, events of each entity.
        rows: (N, S) int64, the row of each event in the table, -1 where no event is.
        entities: (N,) as the table has them.
        channels: (C,) names: columns, "column=category", and "time_since_last" in seconds.
        window: events a window.
        events: the table's entity and time columns, one row an event.
    """

    x: np.ndarray
    mask: np.ndarray
    lengths: np.ndarray
    rows: np.ndarray
    entities: pl.Series
    channels: tuple[str, ...]
    window: int
    events: pl.DataFrame

    def windows(self) -> tuple[np.ndarray, np.ndarray]:
        """Values and mask cut into windows of consecutive events: (N, T, W, C)."""
        return masks.windows(self.x, self.window), masks.windows(self.mask, self.window)

    def to_rows(self, y: np.ndarray) -> np.ndarray:
        """What belongs to the events, (N, S, ...), as rows of the table: (rows, ...)."""
        if y.shape[:2] != self.rows.shape:
            raise ValueError(f"`y` has shape {y.shape}, but the series {self.rows.shape}: expected (N, S, ...)")
        there = self.rows >= 0
        found = np.empty((self.events.height, *y.shape[2:]), dtype=y.dtype)
        found[self.rows[there]] = y[there]
        return found


class EventWindows(EventLayout):
    """Each entity's events in time order as one series, for layers that read windows of them (`window=`).

    Channels are the columns as they are: amounts, booleans as 0 and 1, a channel for each category that the fit saw
    (one that it did not see is 0 in all of them), and at the end the seconds since the entity's event before. A missing
    value is a masked element. Events of one time keep the order of the table.

    Args:
        window: events a window; series are padded on the right to a multiple of it.
        entity: as `read_table`, for frames and paths.
        time: likewise.
        values: likewise.

    Attributes:
        columns_: the columns used.
        categories_: for each categorical column its categories, sorted.
        channels_: names of the C channels.
    """

    def __init__(
        self,
        window: int = 8,
        *,
        entity: str | None = None,
        time: str | None = None,
        values: Sequence[str | Column] | None = None,
    ) -> None:
        self.window = window
        self.entity = entity
        self.time = time
        self.values = values

    def fit(self, X: Any, y: Any = None) -> EventWindows:
        """Learn columns and categories from a path, a frame of any kind, or an `EventTable`."""
        if isinstance(self.window, bool) or not isinstance(self.window, int | np.integer) or self.window < 1:
            raise ValueError(f"window (={self.window!r}) must be a whole number from 1")
        table, self.columns_ = self.read_to_fit(X)
        self.categories_ = {
            column.name: tuple(table.values[column.name].drop_nulls().unique().sort())
            for column in self.columns_
            if column.kind == "categorical"
        }
        names = [[f"{c.name}={v}" for v in self.categories_[c.name]] if c.kind == "categorical" else [c.name]
                 for c in self.columns_]  # fmt: skip
        self.channels_ = (*(name for group in names for name in group), GAP)
        return self

    def transform(self, X: Any) -> EventSeries:
        """The table's events as series."""
        table = self.read(X)
        entities, place = sorted_entities(table)
        values = self.channels_of(table)
        lengths = np.empty(len(place), dtype=np.int64)
        lengths[place] = np.diff(table.starts)
        rows = np.full((len(place), -(-int(lengths.max()) // self.window) * self.window), -1)
        rows[place[table.codes], table.earlier()] = np.arange(len(table.codes))
        x = np.where((rows >= 0)[:, :, None], values[rows], np.nan)
        events = pl.DataFrame([table.entity, table.time])
        return EventSeries(x, ~np.isnan(x), lengths, rows, entities, self.channels_, int(self.window), events)

    def channels_of(self, table: EventTable) -> np.ndarray:
        """Each event's channels: (rows, C) float64, NaN where missing."""
        found = []
        for column in self.columns_:
            values = table.values[column.name]
            if column.kind == "categorical":
                found += [
                    (values == category).cast(pl.Float64).to_numpy() for category in self.categories_[column.name]
                ]
            else:
                found.append(values.cast(pl.Float64).to_numpy())
        return np.stack([*found, table.since_last()], 1)

    def inverse_transform(self, series: EventSeries) -> pl.DataFrame:
        """The events as rows of the table again: entity, time and the value columns, null where missing."""
        check_is_fitted(self)
        values, first, columns = series.to_rows(series.x), 0, []
        for column in self.columns_:
            if column.kind == "categorical":
                categories = self.categories_[column.name]
                hot = values[:, first : first + len(categories)] == 1
                names = np.array([*categories, None], dtype=object)
                chosen = np.where(hot.any(1), hot.argmax(1) if len(categories) else 0, len(categories))
                columns.append(pl.Series(column.name, names[chosen].tolist(), dtype=pl.String))
                first += len(categories)
                continue
            numbers = pl.Series(column.name, values[:, first]).fill_nan(None)
            columns.append(numbers.cast(pl.Boolean) if column.kind == "boolean" else numbers)
            first += 1
        return series.events.with_columns(columns)


# A grid on the calendar -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class EventGrid:
    """Events on a grid; N entities in sorted order, T steps, C channels, L sites.

    Attributes:
        x: (N, T, C, L) float64, NaN where the mask is False; the first channel is the count.
        mask: (N, T, C, L) bool: a count is observed wherever the entity exists, an amount where it was seen.
        lengths: (N, 2) int64, the first step of each entity, and one past the last step of the table.
        entities: (N,) as the table has them.
        steps: (T,) when each step begins, as the table's times.
        channels: (C,) "count" and the columns.
    """

    x: np.ndarray
    mask: np.ndarray
    lengths: np.ndarray
    entities: pl.Series
    steps: pl.Series
    channels: tuple[str, ...]


class CalendarGrid(EventLayout):
    """What each entity did, hour by hour of every day, or day by day of every week.

    A step is a day or a week (from Monday), and its sites are the hours of the day, the days of the week, or the 168
    hours of the week. The first channel counts the events; it is observed wherever the entity exists, that is from its
    first step to the last step of the table, so that a site where nothing happened says 0. The others are amounts; they
    are observed only where something happened and was not missing.

    Times with an offset are in UTC, times without one are as written, and seconds without a calendar are counted from
    0, the weeks too.

    Args:
        step: "day" or "week".
        site: "hour", or with weeks "weekday".
        values: the amounts, numeric or boolean columns; all of the table's when None.
        aggregate: "sum" or "mean" of the amounts in a cell.
        entity: as `read_table`, for frames and paths.
        time: likewise.

    Attributes:
        columns_: the columns used.
        channels_: "count" and their names.
    """

    def __init__(
        self,
        step: Literal["day", "week"] = "day",
        site: Literal["hour", "weekday"] = "hour",
        *,
        values: Sequence[str | Column] | None = None,
        aggregate: Literal["sum", "mean"] = "sum",
        entity: str | None = None,
        time: str | None = None,
    ) -> None:
        self.step = step
        self.site = site
        self.values = values
        self.aggregate = aggregate
        self.entity = entity
        self.time = time

    def fit(self, X: Any, y: Any = None) -> CalendarGrid:
        """Learn the columns from a path, a frame of any kind, or an `EventTable`."""
        if self.aggregate not in ("sum", "mean"):
            raise ValueError(f"aggregate (={self.aggregate!r}) must be 'sum' or 'mean'")
        table, columns = self.read_to_fit(X)
        refuse_pair(table, self.step, self.site)
        for column in columns:
            if self.values is not None and column.kind == "categorical":
                raise TableError(f"column {column.name!r} is categorical, and a grid adds up amounts: leave it out of "
                                 "values, or give columns that are 1 where it has a category")  # fmt: skip
            if column.name in TAKEN:
                raise TableError(f"column {column.name!r} has a name that the grid uses itself, as it does "
                                 f"{', '.join(TAKEN)}: rename it, or leave it out of values")  # fmt: skip
        self.columns_ = tuple(column for column in columns if column.kind != "categorical")
        self.channels_ = (COUNT, *(column.name for column in self.columns_))
        return self

    def transform(self, X: Any) -> EventGrid:
        """The table's events on the grid from the table's first step to its last."""
        table = self.read(X)
        cells = cells_of(table, self.step, self.site)
        entities, place = sorted_entities(table)
        lengths = np.full((len(place), 2), cells.steps)
        lengths[place, 0] = cells.step[table.order[table.starts[:-1]]]
        shape = (len(place), cells.steps, cells.sites)
        flat = np.ravel_multi_index((place[table.codes], cells.step, cells.site), shape)
        x = np.full((*shape[:2], len(self.channels_), shape[2]), np.nan)
        x[masks.from_lengths(lengths, cells.steps), 0] = 0.0
        for channel, name in enumerate(self.channels_):
            values = table.values[name].cast(pl.Float64).to_numpy() if channel else np.ones(len(flat))
            seen, found = aggregated(values, flat, self.aggregate if channel else "sum")
            n, t, site = np.unravel_index(seen, shape)
            x[n, t, channel, site] = found
        return EventGrid(x, ~np.isnan(x), lengths, entities, starts_of_steps(table, cells), self.channels_)

    def cell_of(self, X: Any) -> np.ndarray:
        """The cell of each row of the table in its grid: (rows, 3) int64 n, t and l."""
        table = self.read(X)
        cells: Cells = cells_of(table, self.step, self.site)
        return np.stack([sorted_entities(table)[1][table.codes], cells.step, cells.site], 1)

    def inverse_transform(self, grid: EventGrid) -> pl.DataFrame:
        """One row a cell in which something happened: entity, step (when it begins), site, count and the amounts."""
        check_is_fitted(self)
        n, t, site = np.nonzero(np.nan_to_num(grid.x[:, :, 0]) > 0)
        values = grid.x[n, t, :, site]
        amounts = {name: pl.Series(values[:, place]).fill_nan(None) for place, name in enumerate(grid.channels)}
        return pl.DataFrame({"entity": grid.entities.gather(n), "step": grid.steps.gather(t), "site": site}
                            | amounts).cast({COUNT: pl.Int64})  # fmt: skip


def aggregated(values: np.ndarray, flat: np.ndarray, aggregate: str) -> tuple[np.ndarray, np.ndarray]:
    """The cells that hold a value, and the sum or mean there, from values (rows,) in the cells `flat` (rows,)."""
    known = np.flatnonzero(~np.isnan(values))
    known = known[np.lexsort((values[known], flat[known]))]  # a sum of floats depends on its order, and rows have none
    seen, first, count = np.unique(flat[known], return_index=True, return_counts=True)
    total = np.add.reduceat(values[known], first) if len(seen) else np.empty(0)
    return seen, total / count if aggregate == "mean" else total
