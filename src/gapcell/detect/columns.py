"""Which column of a table is what: guessed by name and contents, and every guess said."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from gapcell.detect.refusals import TableError, shown

Kind = Literal["numeric", "categorical", "boolean"]

# in order of preference: the first word found in a column's name wins
ENTITY_WORDS = (
    "customer", "client", "account", "acct", "card", "user", "member", "entity", "person", "patient", "household",
    "device", "sensor", "machine", "host", "vehicle", "meter", "store", "shop", "seller", "merchant", "series",
    "group", "id",
)  # fmt: skip
TIME_WORDS = ("timestamp", "datetime", "time", "date", "ts", "when", "day", "t")
LABEL_WORDS = ("label", "labels", "fraud", "fraudulent", "target", "anomaly", "anomalous", "outlier", "isfraud")
IDENTIFIER_WORDS = ("id", "uuid", "guid", "zip", "postcode", "phone", "iban", "code")
COMMONEST = 20
LEAST_COVER = 0.1  # of the rows, by the commonest values; below it a category says nothing but "another one"
REPEATED = 10  # rows a value, on average, before a column can be said to tell the label
WHOLE_BELOW = 2.0**53  # whole numbers that float64 tells apart
MOST_FEATURES = 100
NUMBERS_AT_LEAST = 0.9  # a text column with this share of numbers is numeric with typing errors in it


@dataclass(frozen=True)
class Column:
    """A column used as a feature: its name in the table and how it is read."""

    name: str
    kind: Kind


def words(name: str) -> list[str]:
    """The words of a column's name in small letters: "customerId" and "customer_id" give customer, id."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)]


def require(frame: pl.DataFrame, name: str, role: str) -> None:
    """Refuse a column that is not there, suggesting the nearest name."""
    if name in frame.columns:
        return
    near = difflib.get_close_matches(name, frame.columns, n=1, cutoff=0.5)
    cure = f"did you mean {near[0]!r}?" if near else f"it has {listed(frame.columns)}"
    raise TableError(f"the table has no {role} column {name!r}: {cure}")


def require_fitted(columns: Iterable[str], has: list[str]) -> None:
    """Refuse columns that lack a value column which a detector was fitted on."""
    for name in columns:
        if name not in has:
            raise TableError(f"the table has no value column {name!r}, which the detector was fitted on: "
                             f"it has {listed(has)}")  # fmt: skip


def listed(names: list[str], most: int = 12) -> str:
    """Names for a message, cut after a dozen."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + rest


def by_name(names: Iterable[str], sought: Sequence[str]) -> Iterator[str]:
    """The names that hold a sought word, likeliest first: "customer_id" comes before "customer_segment"."""
    parts = {name: words(name) for name in names}
    for exact in (True, False):
        for word in sought:
            for name, own in parts.items():
                if own in ([word], [word, "id"], [word, "no"], [word, "number"]) if exact else word in own:
                    yield name


def guess_entity(frame: pl.DataFrame, taken: set[str]) -> str:
    """The column whose name says whose event it is and in which some value repeats."""
    for name in by_name([name for name in frame.columns if name not in taken], ENTITY_WORDS):
        column = frame[name]
        if not column.dtype.is_nested() and (frame.height == 1 or column.is_duplicated().any()):
            return name
    raise TableError(f"no column looks like the entity of an event, by a name such as customer and values that repeat: "
                     f"name it (entity=, --entity), one of {listed(frame.columns)}")  # fmt: skip


def guess_time(frame: pl.DataFrame, taken: set[str]) -> str:
    """The column of dates or datetimes, or else the one whose name says time."""
    free = [name for name in frame.columns if name not in taken]
    calendar = [name for name in free if frame[name].dtype in (pl.Datetime, pl.Date)]
    for name in (*by_name(calendar, TIME_WORDS), *calendar, *by_name(free, TIME_WORDS)):
        return name
    raise TableError(f"no column looks like the time of an event: name it (time=, --time), one of "
                     f"{listed(frame.columns)}")  # fmt: skip


def left_out_because(column: pl.Series, label: pl.Series | None) -> str | None:
    """Why a column that nobody named is not used as a feature; None when it is."""
    name = set(words(column.name))
    values = column.drop_nulls()
    if column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object, pl.Time):
        return f"it holds {column.dtype}"
    if values.len() == 0:
        return "it is empty"
    if name & set(LABEL_WORDS):
        return "its name says label; name it as such to measure against it"
    if column.dtype in (pl.Datetime, pl.Date):
        return "it is a second column of times"
    different = values.n_unique()
    if different == 1 and values.len() > 1:
        return f"it holds nothing but {shown(values[0])}"
    if column.dtype.is_integer() and 1 < different == column.len() and values.is_sorted():
        return "it numbers the rows"
    if label is not None and tells(column, label):
        return "it tells the label exactly"
    return None


def tells(column: pl.Series, label: pl.Series) -> bool:
    """True when a handful of values, often repeated, fixes the label: such a column was made from it."""
    known = pl.DataFrame({"value": column, "label": label}).drop_nulls()
    different = known["value"].n_unique()
    if known["label"].n_unique() < 2 or not 2 <= different <= min(COMMONEST, known.height / REPEATED):
        return False
    return bool((known.group_by("value").agg(pl.col("label").n_unique())["label"] == 1).all())


def like_an_identifier(column: pl.Series) -> str | None:
    """Why a categorical column is an identifier rather than a category; None when it is not.

    Raises:
        TableError: when it rather is a column of amounts with typing errors in it.
    """
    refuse_mistyped(column, fractions_only=True)
    values = column.drop_nulls()
    different = values.n_unique()
    if different <= COMMONEST:
        return None
    if different > values.len() / 2:
        return f"it looks like an identifier: {different:,} different values in {values.len():,} rows"
    counts = values.value_counts(sort=True)["count"]
    cover = counts.head(COMMONEST).sum() / values.len()
    if cover < LEAST_COVER:
        return f"it looks like an identifier: its {COMMONEST} commonest values cover {cover:.1%} of the rows"
    return None


def kind_of(column: pl.Series) -> Kind:
    """How a column of values is read."""
    if column.dtype == pl.Boolean:
        return "boolean"
    if column.dtype == pl.Duration:
        return "numeric"
    if column.dtype.is_numeric():
        values = column.drop_nulls()
        if column.dtype.is_integer() and values.len() and values.is_in([0, 1]).all():
            return "boolean"
        if column.dtype.is_integer() and set(words(column.name)) & set(IDENTIFIER_WORDS):
            return "categorical"
        return "numeric"
    if column.dtype in (pl.String, pl.Categorical, pl.Enum):
        return "boolean" if truths(column) is not None else "categorical"
    raise TableError(f"column {column.name!r} holds {column.dtype}, which is no feature: "
                     "numbers, text and True/False are")  # fmt: skip


TRUE, FALSE = ("true", "yes", "1"), ("false", "no", "0")


def truths(column: pl.Series) -> pl.Series | None:
    """Text such as "true" and "False" as Boolean; None when something else stands there."""
    text = column.cast(pl.String).str.strip_chars().str.to_lowercase()
    known = text.drop_nulls()
    if known.len() == 0 or not known.is_in([*TRUE[:2], *FALSE[:2]]).all():
        return None
    return text.is_in(TRUE[:2])


def as_kind(column: pl.Series, kind: Kind) -> pl.Series:
    """A column as Float64, String or Boolean; NaN becomes null.

    Raises:
        TableError: naming the first row that holds an infinite amount or something of another kind.
    """
    if kind == "numeric":
        return as_numbers(column)
    if kind == "boolean":
        return as_boolean(column, "feature")
    refuse_mistyped(column)
    return as_category(column)


def as_category(column: pl.Series) -> pl.Series:
    """A column as String, numbers in it written in one way.

    One event in a CSV file by itself says 7 where the whole file, in which other rows hold letters, says "007".
    """
    text = column.cast(pl.String)
    written_out = column.dtype in (pl.String, pl.Categorical, pl.Enum)
    numbers = (text if written_out else column).cast(pl.Float64, strict=False)
    if numbers.null_count() == len(numbers):
        return text
    whole = (numbers == numbers.floor()) & (numbers.abs() < WHOLE_BELOW)
    written = pl.when(whole).then(numbers.cast(pl.Int64, strict=False).cast(pl.String))
    written = written.when(numbers.is_finite()).then(numbers.cast(pl.String)).otherwise(text)
    return pl.select(written.alias(column.name)).to_series()


def as_numbers(column: pl.Series) -> pl.Series:
    """A column as finite Float64, null where missing."""
    if column.dtype == pl.Duration:
        column = column.dt.total_microseconds().cast(pl.Float64) / 1e6
    if not (column.dtype.is_numeric() or column.dtype in (pl.String, pl.Boolean, pl.Null)):
        raise TableError(f"column {column.name!r} holds {column.dtype} where numbers were expected")
    numbers = column.cast(pl.Float64, strict=False)
    if numbers.null_count() > column.null_count():
        refuse_row(column, numbers.is_null() & column.is_not_null(), "where a number was expected: correct it or "
                   "leave the cell empty")  # fmt: skip
    values = numbers.to_numpy()
    if np.isinf(values).any():
        refuse_row(column, numbers.is_infinite(), "an infinite amount: correct it or leave the cell empty")
    return numbers.fill_nan(None) if np.isnan(values).sum() > numbers.null_count() else numbers


def as_boolean(column: pl.Series, role: str) -> pl.Series:
    """A boolean, 0/1 or "true"/"false" column as Boolean, null where unknown."""
    if column.dtype == pl.Boolean:
        return column
    if column.dtype.is_nested() or column.dtype.is_temporal() or column.dtype in (pl.Binary, pl.Object):
        raise TableError(f"{role} column {column.name!r} holds {column.dtype} where True/False or 0/1 was expected")
    numeric = column.cast(pl.Float64).fill_nan(None) if column.dtype.is_numeric() else None
    if numeric is not None:
        text = pl.select(pl.when(numeric == 1).then(pl.lit("1")).when(numeric == 0).then(pl.lit("0"))
                         .when(numeric.is_not_null()).then(pl.lit("?"))).to_series()  # fmt: skip
    else:
        text = column.cast(pl.String).str.strip_chars().str.to_lowercase()
    bad = text.is_not_null() & ~text.is_in([*TRUE, *FALSE])
    refuse_row(column, bad, "where True/False or 0/1 was expected (leave the cell empty where it is unknown)", role)
    return text.is_in(TRUE).alias(column.name)


def refuse_row(column: pl.Series, bad: pl.Series, problem: str, role: str = "feature") -> None:
    """Raise TableError for the first row where `bad` is True."""
    row = bad.fill_null(value=False).arg_max() if bad.any() else None
    if row is not None:
        lead = f"{role} column" if role != "feature" else "column"
        raise TableError(f"{lead} {column.name!r}, row {row + 1} holds {shown(column[row])}, {problem}")


def refuse_mistyped(column: pl.Series, *, fractions_only: bool = False) -> None:
    """Refuse text that is nearly all numbers: read as categories it would silently mean something else.

    With `fractions_only` whole numbers pass, for those may be identifiers of which some have letters.
    """
    if column.dtype != pl.String:
        return
    if column.len() <= COMMONEST:
        return
    values = column.drop_nulls()
    numbers = values.cast(pl.Float64, strict=False).drop_nulls()
    if not NUMBERS_AT_LEAST * values.len() <= numbers.len() < values.len() or values.n_unique() <= COMMONEST:
        return
    if not fractions_only or bool((numbers != numbers.floor()).any()):
        bad = column.is_not_null() & column.cast(pl.Float64, strict=False).is_null()
        refuse_row(column, bad, "where the other rows hold numbers: correct it or leave the cell empty")
