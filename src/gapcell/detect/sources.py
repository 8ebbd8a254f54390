"""What the estimator is given (a path, a frame of any kind, an event table, an array) read as a table of events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gapcell.detect.columns import as_boolean
from gapcell.detect.detector import Detector
from gapcell.detect.events import EventTable, read_table, replace_source
from gapcell.detect.frames import as_polars, is_frame, labels_of
from gapcell.detect.padded import LABEL, ROW, STEP, Padded, read_arrays
from gapcell.detect.table_files import read_frame


@dataclass(frozen=True, eq=False)
class Arrays:
    """Arrays as a table of events.

    Attributes:
        padded: where the events are in the arrays.
        table: the events; None where none is observed.
    """

    padded: Padded
    table: EventTable | None


Given = EventTable | Arrays


def read_to_fit(X: Any, y: Any, arrays: Mapping[str, Any], roles: Mapping[str, Any]) -> Given:
    """Events to fit on.

    Args:
        X: a path, a frame, an `EventTable` or an array (N, S, C).
        y: labels, or None.
        arrays: mask, lengths and times of an array.
        roles: entity, time, values and label, as `read_table` takes them.
    """
    if is_array(X):
        padded = read_arrays(X, **arrays, names=roles["values"], labels=y)
        return given_arrays(padded, lambda frame, label: read_table(frame, label=label, **padded.reading))
    refuse_for_tables(arrays)
    if isinstance(X, EventTable):
        return X if y is None else relabelled(X, y)
    frame, label = labelled(X, y, roles["label"])
    return named(read_table(frame, **{**roles, "label": label}), X)


def read_to_score(X: Any, y: Any, arrays: Mapping[str, Any], label: str | None, detector: Detector) -> Given:
    """Events to score, with the columns that a detector was fitted on; a label column need not be there.

    Args:
        X: a path, a frame, an `EventTable` or an array (N, S, C).
        y: labels, or None.
        arrays: mask, lengths and times of an array.
        label: the label column.
        detector: the fitted one.
    """
    if is_array(X):
        if not on_arrays(detector):
            raise ValueError(f"X is an array, but the detector was fitted on a table with entity column "
                             f"{detector.schema.entity!r}: give a table with these columns")  # fmt: skip
        padded = read_arrays(X, **arrays, names=detector.schema.columns, labels=y)
        return given_arrays(padded, lambda frame, label: detector.read(frame, label=label))
    refuse_for_tables(arrays)
    if isinstance(X, EventTable):
        return X if y is None else relabelled(X, y)
    frame, label = labelled(X, y, label)
    return named(detector.read(frame, label=label if label in frame.columns else None), X)


def is_array(X: Any) -> bool:
    """True for arrays of any framework and nested lists."""
    return not (isinstance(X, str | Path | EventTable) or is_frame(X))


def on_arrays(detector: Detector) -> bool:
    """True where a detector was fitted on arrays."""
    return (detector.schema.entity, detector.schema.time) == (ROW, STEP)


def given_arrays(padded: Padded, read: Callable[[pl.DataFrame, str | None], EventTable]) -> Arrays:
    """Arrays' events, where they hold any, as `read(frame, label)` makes a table of them."""
    label = LABEL if LABEL in padded.frame.columns else None
    return Arrays(padded, read(padded.frame, label) if padded.frame.height else None)


def refuse_for_tables(arrays: Mapping[str, Any]) -> None:
    """Refuse what goes with arrays only."""
    given = [name for name, value in arrays.items() if value is not None]
    if given:
        raise ValueError(f"`{given[0]}` goes with an array X (N, S, C), but X is a table: a value that is missing is "
                         "an empty cell there, and an event that did not happen no row")  # fmt: skip


def labelled(X: Any, y: Any, label: str | None) -> tuple[pl.DataFrame, str | None]:
    """The table as polars has it, with y as its label column where it is given, and that column's name."""
    frame = read_frame(Path(X)) if isinstance(X, str | Path) else as_polars(X)
    if y is None:
        return frame, label
    name = label or free_name(frame)
    return frame.with_columns(labels_of(y, name, frame.height)), name


def free_name(frame: pl.DataFrame) -> str:
    """A name for labels that no column has."""
    name = LABEL
    while name in frame.columns:
        name += "_"
    return name


def named(table: EventTable, X: Any) -> EventTable:
    """The table, saying which file it came from."""
    return replace_source(table, str(X)) if isinstance(X, str | Path) else table


def relabelled(table: EventTable, y: Any) -> EventTable:
    """An event table with other labels."""
    name = table.reading.label or LABEL
    labels = as_boolean(labels_of(y, name, table.reading.rows), "label")
    return replace(table, label=labels, reading=replace(table.reading, label=name))


def place_of(row: int | tuple[int, int], given: Given) -> tuple[int, EventTable]:
    """The place of an event in its table, from its row or from its (n, s) in arrays, and the table.

    Raises:
        IndexError: when there is no such event.
    """
    if isinstance(given, EventTable):
        if isinstance(row, tuple) or not 0 <= row < given.reading.rows:
            raise IndexError(f"row {row} is not in the table: it has the rows 0 to {given.reading.rows - 1}")
        return int(row), given
    shape = given.padded.shape[:2]
    inside = (
        isinstance(row, tuple) and len(row) == 2 and all(0 <= at < size for at, size in zip(row, shape, strict=True))
    )
    found = np.flatnonzero(given.padded.place == np.ravel_multi_index(row, shape)) if inside else np.empty(0)
    if given.table is None or found.size == 0:
        raise IndexError(f"no event of the arrays is observed at {row}: give (n, s) of one that is")
    return int(found[0]), given.table
