"""Data frames of any kind into polars, and results back into the caller's kind.

narwhals tells the kinds apart without importing what the caller has not imported: pandas, polars, pyarrow and what
looks like them. A lazy frame is collected by its own engine, and results are of the kind that it collects to.
"""

from __future__ import annotations

from typing import Any

import narwhals as nw
import polars as pl
from narwhals.dependencies import is_into_series

from gapcell.detect.refusals import TableError

PYARROW = "a frame of pandas or pyarrow is read through pyarrow, which is not installed: pip install pyarrow"
EXTENSION: Any = getattr(pl, "BaseExtension", ())  # older polars has no such types, and takes them for plain ones


def is_frame(source: object) -> bool:
    """True for an eager or a lazy frame of any kind."""
    return isinstance(source, pl.DataFrame) or isinstance(
        nw.from_native(source, pass_through=True), nw.DataFrame | nw.LazyFrame
    )


def as_polars(source: Any) -> pl.DataFrame:
    """A frame of any kind as polars has it, its rows in the same order.

    NaN is missing, as pandas means it; what has a name in its index comes as columns in front. A column that
    polars has no type for (objects of several types, periods, intervals) comes as Object, to be refused by its name
    where it is asked for.

    Raises:
        TableError: when two columns have one name, a name is no text, or pyarrow is needed and not installed.
    """
    if isinstance(source, pl.DataFrame):
        return source
    frame = eager(source)
    return pl.DataFrame([*index_of(frame), *(column_of(frame[name], name) for name in frame.columns)])


def eager(source: Any) -> nw.DataFrame[Any]:
    """The frame as narwhals has it, collected where it is lazy."""
    try:
        frame = nw.from_native(source)
        frame = frame.collect() if isinstance(frame, nw.LazyFrame) else frame
        names: list[object] = [*frame.columns]
    except nw.exceptions.DuplicateError as error:
        raise TableError(f"the frame has two columns of one name, rename one: {' '.join(str(error).split())}") from None
    odd = next((name for name in names if not isinstance(name, str)), None)
    if odd is not None:
        raise TableError(f"the frame has a column named {odd!r}, which is no text: rename it (frame.columns = [...])")
    return frame


def index_of(frame: nw.DataFrame[Any]) -> list[pl.Series]:
    """The levels of an index of pandas that have a name no column has."""
    if not frame.implementation.is_pandas_like():
        return []
    index = frame.to_native().index
    levels = {name: index.get_level_values(name) for name in index.names if isinstance(name, str)}
    return [
        column_of(nw.from_native(level.to_series(), series_only=True), name)
        for name, level in levels.items()
        if name not in frame.columns
    ]


def column_of(column: nw.Series[Any], name: str) -> pl.Series:
    """One column as polars has it; Object where it has no type for it."""
    try:
        series = column.to_polars()
    except ImportError:
        raise TableError(PYARROW) from None
    except (TypeError, ValueError, NotImplementedError):  # what pyarrow's refusals are
        return pl.Series(name, column.to_list(), dtype=pl.Object)
    if isinstance(series.dtype, EXTENSION):
        return pl.Series(name, column.to_list(), dtype=pl.Object)
    return (series.fill_nan(None) if series.dtype.is_float() else series).alias(name)


def like(frame: pl.DataFrame, source: Any) -> Any:
    """A result with a row for each row of `source` as a frame of the kind of `source`; pandas keeps its index.

    Args:
        frame: the result.
        source: a frame of any kind; where it is none (a path, an event table) the result stays polars.
    """
    if isinstance(source, pl.DataFrame | pl.LazyFrame) or not is_frame(source):
        return frame
    kind = eager(source)
    made = nw.from_arrow(frame, backend=kind.implementation).to_native()
    if kind.implementation.is_pandas_like():
        made.index = kind.to_native().index
    return made


def labels_of(y: Any, name: str, rows: int) -> pl.Series:
    """Labels given beside a table as a column of it: bool, 0/1, or missing (None or NaN), one a row.

    Raises:
        TableError: when there are not as many as rows.
    """
    if is_into_series(y):
        labels = column_of(nw.from_native(y, series_only=True), name)
    else:
        values = y.tolist() if hasattr(y, "tolist") else list(y)
        labels = pl.Series(name, values, strict=False)
    if labels.len() != rows or labels.dtype.is_nested():
        shape = tuple(y.shape) if hasattr(y, "shape") else (labels.len(),)
        raise TableError(f"y has shape {shape}, but the table has {rows} rows: expected one label a row, ({rows},)")
    return labels
