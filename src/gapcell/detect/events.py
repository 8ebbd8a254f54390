"""Event tables: from a CSV or Parquet file, or a data frame, to one ragged series per entity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gapcell.detect.columns import (
    MOST_FEATURES,
    Column,
    as_boolean,
    as_kind,
    guess_entity,
    guess_time,
    kind_of,
    left_out_because,
    like_an_identifier,
    require,
)
from gapcell.detect.frames import as_polars, is_frame
from gapcell.detect.refusals import TableError
from gapcell.detect.table_files import read_cdnow, read_frame
from gapcell.detect.times import Times, parse_times

GAP = "time_since_last"
"""The name of the feature that is made of the times."""

REPORTS = "recent_reports"
"""The name of the feature that is made of the labels that have become known."""


FEW = 2000  # rows with which Python is through before a frame has begun


@dataclass(frozen=True)
class Reading:
    """What was read and what was guessed, so that it can be said aloud.

    Attributes:
        source: where the table came from (a path, or "a frame").
        rows: number of events.
        entities: number of entities.
        entity: name of the entity column.
        others: names of the further key columns, by which the same events are grouped once more.
        time: name of the time column.
        time_form: how the times were read, in words, such as "dates written YYYYMMDD".
        has_hours: True when the hour of the day of the times means something.
        columns: the columns used as features, in table order.
        missing: missing values in each of these columns.
        label: name of the label column, or None.
        guessed: which of "entity", "time" and "values" were guessed rather than named.
        left_out: (column, why) for each column that is not used.
    """

    source: str
    rows: int
    entities: int
    entity: str
    time: str
    time_form: str
    has_hours: bool
    columns: tuple[Column, ...]
    missing: tuple[int, ...]
    label: str | None
    guessed: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]
    others: tuple[str, ...] = ()

    def sentences(self) -> list[str]:
        """What was read, guessed and left out, each a sentence without a full stop."""
        guessed = {role: " (guessed)" if role in self.guessed else "" for role in ("entity", "time", "values")}
        features = ", ".join(f"{column.name} ({column.kind})" for column in self.columns)
        said = [
            f"{self.rows:,} events of {self.entities:,} entities read from {self.source}",
            f"entity: {self.entity}{guessed['entity']}",
            *(f"also grouped by {name}" for name in self.others),
            f"time: {self.time}{guessed['time']}, read as {self.time_form}",
            f"features{guessed['values']}: {features or 'none but the time since the last event'}",
        ]
        if self.label is not None:
            said.append(f"label: {self.label}")
        said += [
            f"{column.name} is missing in {count:,} event{'s' if count > 1 else ''}"
            for column, count in zip(self.columns, self.missing, strict=True)
            if count
        ]
        return said + [f"{name} is left out: {why}" for name, why in self.left_out]


@dataclass(frozen=True, eq=False)
class EventTable:
    """Events in the order of the file, with what is needed to walk them entity by entity.

    Attributes:
        reading: what was read and guessed.
        entity: (rows,) the entity of each event, as the table has it.
        time: (rows,) the time of each event: Datetime in microseconds (UTC or zoneless), or Float64 seconds.
        seconds: (rows,) float64, the same times in seconds (since 1970 where there is a calendar).
        values: (rows, features) one column per feature: Float64, String or Boolean; null where missing.
        label: (rows,) Boolean, null where unknown; None when there is no label.
        codes: (rows,) int64, the entity's number, in the order of first appearance.
        order: (rows,) int64, the rows sorted by entity number, then time, then place in the file.
        starts: (entities + 1,) int64, where in `order` each entity begins.
        others: (rows, further keys) String, the further keys; null where an event has none.
        before: (entities,) how many events each entity had before this table.
        last_before: (entities,) float64 seconds of the last of them, NaN where there was none.
    """

    reading: Reading
    entity: pl.Series
    time: pl.Series
    seconds: np.ndarray
    values: pl.DataFrame
    label: pl.Series | None
    codes: np.ndarray
    order: np.ndarray
    starts: np.ndarray
    others: pl.DataFrame = field(default_factory=pl.DataFrame)
    before: np.ndarray | int = 0
    last_before: np.ndarray | float = np.nan

    def rows_of(self, code: int) -> np.ndarray:
        """Rows of the entity with this number, in time order: (events,) int64."""
        return self.order[self.starts[code] : self.starts[code + 1]]

    def since_last(self) -> np.ndarray:
        """Seconds since the entity's previous event, NaN for its first: (rows,) float64."""
        gaps = np.full(len(self.order), np.nan)
        ordered = self.seconds[self.order]
        gaps[self.order[1:]] = np.diff(ordered)
        gaps[self.order[self.starts[:-1]]] = ordered[self.starts[:-1]] - self.last_before
        return gaps

    def earlier(self) -> np.ndarray:
        """How many earlier events the entity has: (rows,) int64."""
        count = np.empty(len(self.order), dtype=np.int64)
        first = self.starts[:-1] - self.before
        count[self.order] = np.arange(len(self.order)) - np.repeat(first, np.diff(self.starts))
        return count


def read_table(
    source: Any,
    *,
    entity: str | Sequence[str] | None = None,
    time: str | None = None,
    values: Sequence[str | Column] | None = None,
    label: str | None = None,
    numbers_as: str | None = None,
) -> EventTable:
    """Read a table of events.

    In CSV, empty cells and NA, N/A, null, None and NaN are missing values. Duplicate times keep their order.

    Args:
        source: a .csv, .tsv, .txt or .parquet file, or a data frame of any kind that narwhals knows (polars, pandas,
            pyarrow, ...); a lazy one is collected.
        entity: the column that says whose event it is; guessed by name when None. Several, such as
            ("customer", "terminal"), group the same events by each; the first is the entity, and the others may be
            empty where an event has none.
        time: the column that says when; guessed by type and name when None.
        values: the columns to use as features, a `Column` where its kind is to be forced; all usable ones when None.
        label: a boolean or 0/1 column, null where unknown; never guessed, and never used as a feature.
        numbers_as: how times that are numbers are to be read: "seconds", "milliseconds since 1970" or
            "dates written YYYYMMDD"; told from the numbers when None.

    Raises:
        TableError: naming the column and the first bad row (1 is the first row of data).
    """
    in_memory = is_frame(source)
    frame = as_polars(source) if in_memory else read_frame(Path(source))
    name = "a frame" if in_memory else str(source)
    if frame.height == 0:
        raise TableError(f"{name} holds no events: at least one row was expected")
    keys = () if entity is None else (entity,) if isinstance(entity, str) else tuple(entity)
    entity, others = (keys[0] if keys else None), keys[1:]
    guessed = tuple(role for role, given in (("entity", entity), ("time", time), ("values", values)) if given is None)
    entity, time = named_or_guessed(frame, entity, time, label)
    labels = None if label is None else as_boolean(frame[label], "label")
    entities = entity_column(frame[entity])
    times = parse_times(frame[time], numbers_as)
    roles = {entity, time, label, *others}
    further = other_keys(frame, others, (entity, time, label))
    if values is None:
        columns, left_out = guess_values(frame, roles, labels)
        refuse_featureless(columns, left_out)
    else:
        columns, left_out = named_values(frame, values, roles)
    refuse_reserved(columns)
    if len(columns) > MOST_FEATURES:
        raise TableError(f"{len(columns)} columns could be features: name at most {MOST_FEATURES} (values=, --value)")
    features = pl.DataFrame([as_kind(frame[column.name], column.kind).alias(column.name) for column in columns])
    return assemble(name, entities, times, features, labels, (time, columns, guessed, left_out), further)


def other_keys(frame: pl.DataFrame, others: Sequence[str], taken: tuple[str | None, ...]) -> pl.DataFrame:
    """The further keys as text, null where empty; each must be there, and be no other role's column."""
    for number, key in enumerate(others):
        require(frame, key, "entity")
        if key in (*taken, *others[:number]):
            raise TableError(f"column {key!r} is named twice among entity, time and label: each needs its own")
        if frame[key].dtype.is_nested() or frame[key].dtype in (pl.Binary, pl.Object):
            raise TableError(f"entity column {key!r} holds {frame[key].dtype}: text or numbers were expected")
    if not others:
        return pl.DataFrame()
    keys = frame.select(
        (pl.col(key).fill_nan(None) if frame[key].dtype.is_float() else pl.col(key)).cast(pl.String) for key in others
    )
    return keys.with_columns(pl.when(pl.all().str.strip_chars() != "").then(pl.all()))


def named_or_guessed(frame: pl.DataFrame, entity: str | None, time: str | None, label: str | None) -> tuple[str, str]:
    """The entity and the time column, which must be there and must be two."""
    for column, role in ((entity, "entity"), (time, "time"), (label, "label")):
        if column is not None:
            require(frame, column, role)
    named = {column for column in (entity, time, label) if column is not None}
    time = time or guess_time(frame, named)
    entity = entity or guess_entity(frame, named | {time})
    if entity == time or label in (entity, time):
        twice = entity if entity in (time, label) else time
        raise TableError(f"column {twice!r} is named for two of entity, time and label: each needs its own")
    return entity, time


def refuse_reserved(columns: tuple[Column, ...]) -> None:
    """Refuse a column with the name of a feature that is made here."""
    for name, source in ((GAP, "times"), (REPORTS, "labels")):
        if any(column.name == name for column in columns):
            raise TableError(
                f"column {name!r} has the name of the feature made of the {source}: rename it or leave it out"
            )


def entity_column(column: pl.Series) -> pl.Series:
    """The entity column, every row of which must hold something."""
    if column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object):
        raise TableError(f"entity column {column.name!r} holds {column.dtype}: text or numbers were expected")
    empty = column.is_nan() if column.dtype.is_float() else None
    if column.dtype == pl.String and (len(column) > FEW or not all(name and name.strip() for name in column.to_list())):
        empty = column.str.strip_chars() == ""
    if column.null_count() or (empty is not None and empty.any()):
        row = int(np.argmax((column.is_null() if empty is None else empty.fill_null(value=True)).to_numpy()))
        raise TableError(f"entity column {column.name!r}, row {row + 1} is empty: every event needs an entity")
    return column


def guess_values(
    frame: pl.DataFrame, roles: set[str | None], labels: pl.Series | None
) -> tuple[tuple[Column, ...], tuple[tuple[str, str], ...]]:
    """Every column that can be a feature, and why the others cannot."""
    columns, left_out = [], []
    for name in frame.columns:
        if name in roles:
            continue
        column = frame[name]
        why = left_out_because(column, labels)
        kind = kind_of(column) if why is None else "numeric"
        if why is None and kind == "categorical":
            why = like_an_identifier(column)
        if why is None:
            columns.append(Column(name, kind))
        else:
            left_out.append((name, why))
    return tuple(columns), tuple(left_out)


def named_values(
    frame: pl.DataFrame, values: Sequence[str | Column], roles: set[str | None]
) -> tuple[tuple[Column, ...], tuple[tuple[str, str], ...]]:
    """The columns that were named; only empty ones and identifiers are left out."""
    columns, left_out = [], []
    for value in values:
        name = value if isinstance(value, str) else value.name
        require(frame, name, "value")
        if name in roles:
            raise TableError(f"column {name!r} cannot be a feature too: it is the entity, the time or the label")
        if isinstance(value, Column):
            columns.append(value)
            continue
        column = frame[name]
        kind = "numeric" if column.dtype == pl.Null else kind_of(column)
        why = "it is empty" if column.null_count() == column.len() else None
        why = why or (like_an_identifier(column) if kind == "categorical" else None)
        if why is None:
            columns.append(Column(name, kind))
        else:
            left_out.append((name, why))
    refuse_featureless(columns, left_out)
    return tuple(dict.fromkeys(columns)), tuple(left_out)


def refuse_featureless(columns: Sequence[Column], left_out: Sequence[tuple[str, str]]) -> None:
    """Refuse a table none of whose columns can be used; one that has times only says something by its times."""
    if left_out and not columns:
        raise TableError(f"no usable feature is left: {'; '.join(f'{name}: {why}' for name, why in left_out)}")


def assemble(
    source: str,
    entities: pl.Series,
    times: Times,
    values: pl.DataFrame,
    labels: pl.Series | None,
    read: tuple[str, tuple[Column, ...], tuple[str, ...], tuple[tuple[str, str], ...]],
    others: pl.DataFrame | None = None,
) -> EventTable:
    """Number the entities and sort each one's events by time."""
    others = pl.DataFrame() if others is None else others
    codes = numbered(entities)
    order = np.lexsort((times.seconds, codes))  # stable, so equal times keep the order of the file
    starts = np.searchsorted(codes[order], np.arange(codes.max() + 2))
    time, columns, guessed, left_out = read
    reading = Reading(
        source=source,
        rows=len(codes),
        entities=len(starts) - 1,
        entity=entities.name,
        time=time,
        time_form=times.form,
        has_hours=times.has_hours,
        columns=columns,
        missing=tuple(values[column.name].null_count() for column in columns),
        label=None if labels is None else labels.name,
        guessed=guessed,
        left_out=left_out,
        others=tuple(others.columns),
    )
    return EventTable(reading, entities, times.shown, times.seconds, values, labels, codes, order, starts, others)


def numbered(keys: pl.Series) -> np.ndarray:
    """Keys (rows,) as numbers in the order of their first appearance, -1 where null: int64."""
    keys = keys.cast(pl.String)
    if len(keys) <= FEW:
        known: dict[str | None, int] = {None: -1}
        return np.array([known.setdefault(key, len(known) - 1) for key in keys.to_list()], dtype=np.int64)
    column = keys.alias("key").to_frame()
    numbers = column.drop_nulls().unique(maintain_order=True).with_row_index("code")
    codes = column.join(numbers, on="key", how="left", maintain_order="left")["code"]
    return codes.cast(pl.Int64).fill_null(-1).to_numpy()


def rebuild(
    table: EventTable,
    *,
    entity: pl.Series,
    seconds: np.ndarray,
    values: pl.DataFrame,
    others: pl.DataFrame,
    label: pl.Series | None,
) -> EventTable:
    """A table of other events with the columns of this one.

    Args:
        table: whose columns and sort of times are kept.
        entity: (rows,) of the new events.
        seconds: (rows,) float64.
        values: (rows, features).
        others: (rows, further keys).
        label: (rows,) Boolean, or None.
    """
    reading = table.reading
    if table.time.dtype == pl.Float64:
        shown = pl.Series(table.time.name, seconds)
    else:
        shown = pl.Series(table.time.name, np.round(seconds * 1e6).astype(np.int64)).cast(table.time.dtype)
    times = Times(shown, seconds, reading.time_form, reading.has_hours)
    return assemble(reading.source, entity, times, values, label, (reading.time, reading.columns, (), ()), others)


def part_of(table: EventTable, rows: np.ndarray) -> EventTable:
    """The table of these rows alone, in this order, read as the whole was."""
    different, codes = np.unique(table.codes[rows], return_inverse=True)
    order = np.lexsort((table.seconds[rows], codes))
    values = table.values[rows]
    reading = replace(
        table.reading, rows=len(rows), entities=len(different), missing=tuple(column.null_count() for column in values)
    )
    return EventTable(
        reading, table.entity[rows], table.time[rows], table.seconds[rows], values,
        None if table.label is None else table.label[rows],
        codes, order, np.searchsorted(codes[order], np.arange(len(different) + 1)),
        table.others.select(pl.all().gather(rows)),
    )  # fmt: skip


def load_cdnow() -> EventTable:
    """Purchases at CDNOW, 1997-01 to 1998-06 (Fader and Hardie 2001), from the installed wheel of `lifetimes`.

    Columns customer_id, date, number_of_cds, dollar_value. The package is not imported.

    Raises:
        TableError: when the wheel is not installed; the text carries the pip line.
    """
    table = read_table(read_cdnow(), entity="customer_id", time="date", values=("number_of_cds", "dollar_value"))
    return replace_source(table, "CDNOW_master.txt of the package lifetimes")


def replace_source(table: EventTable, source: str) -> EventTable:
    """The same table with another word for where it came from."""
    return replace(table, reading=replace(table.reading, source=source))
