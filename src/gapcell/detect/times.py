"""Times as people write them, read into seconds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from gapcell.detect.refusals import TableError, shown

DATE_FORMAT = "%Y-%m-%d"
MINUTE_FORMAT = "%Y-%m-%d %H:%M"
SECOND_FORMAT = "%Y-%m-%d %H:%M:%S%.f"
EARLIEST_YMD, LATEST_YMD = 19000101, 21001231
MILLIS_RANGE = (4e11, 4e12)  # 1982 to 2096 in milliseconds since 1970; as seconds the years 14,000 to 130,000
SECONDS, MILLISECONDS, YMD = "seconds", "milliseconds since 1970", "dates written YYYYMMDD"
LATEST_MILLISECOND = 2e14  # the year 8307, as far as calendars need to go
CURE = "write ISO 8601 such as 2024-01-31 09:30:00, or a number of seconds"


@dataclass(frozen=True, eq=False)
class Times:
    """Times of events.

    Attributes:
        shown: (rows,) Datetime in microseconds (UTC or zoneless), or Float64 seconds where there is no calendar.
        seconds: (rows,) float64; seconds since 1970 where there is a calendar.
        form: how they were read, in words.
        has_hours: True when some time is not at midnight, so that the hour of the day means something.
    """

    shown: pl.Series
    seconds: np.ndarray
    form: str
    has_hours: bool


def parse_times(column: pl.Series, numbers_as: str | None = None) -> Times:
    """Read a column of times: datetimes, dates, ISO 8601 text, numbers of seconds, or whole numbers YYYYMMDD.

    Numbers are read as dates YYYYMMDD when all have that form, as milliseconds since 1970 when all lie between 1982
    and 2096 read so, and as seconds otherwise; unless `numbers_as` says which: one of `SECONDS`, `MILLISECONDS`, `YMD`.

    Raises:
        TableError: naming the column and the first row that holds no time.
    """
    if column.dtype.is_temporal() and column.dtype not in (pl.Duration, pl.Time):
        if column.null_count():
            refuse_first(column, column.is_null())
        form = "dates" if column.dtype == pl.Date else "dates and times"
        return on_the_calendar(column, form)
    if column.dtype == pl.Duration:
        refuse_first(column, column.is_null())
        return in_seconds(column.dt.total_microseconds().cast(pl.Float64) / 1e6, "durations")
    if column.dtype.is_numeric():
        return from_numbers(column, numbers_as)
    if column.dtype in (pl.String, pl.Categorical, pl.Enum):
        return from_text(column.cast(pl.String).str.strip_chars(), numbers_as)
    raise TableError(f"time column {column.name!r} holds {column.dtype}, which is not a time: {CURE}")


def refuse_first(column: pl.Series, bad: pl.Series) -> None:
    """Raise TableError for the first row where `bad` is True."""
    row = bad.arg_max() if bad.any() else None
    if row is None:
        return
    if column[row] is None or column[row] == "":
        raise TableError(f"time column {column.name!r}, row {row + 1} is empty: every event needs a time")
    raise TableError(f"time column {column.name!r}, row {row + 1} holds {shown(column[row])}: {CURE}")


def on_the_calendar(times: pl.Series, form: str) -> Times:
    """Dates or datetimes without nulls, a time zone turned into UTC."""
    if isinstance(times.dtype, pl.Datetime) and times.dtype.time_zone not in (None, "UTC"):
        times = times.dt.convert_time_zone("UTC")
        form += ", turned into UTC"
    zone = times.dtype.time_zone if isinstance(times.dtype, pl.Datetime) else None
    times = times.cast(pl.Datetime("us", zone))
    ticks = times.cast(pl.Int64).to_numpy()
    has_hours = bool((ticks % 86_400_000_000 != 0).any())
    return Times(times, ticks / 1e6, form, has_hours)


def in_seconds(seconds: pl.Series, form: str) -> Times:
    """Numbers of seconds from an unknown start."""
    return Times(seconds, seconds.to_numpy().astype(np.float64), form, has_hours=False)


def from_numbers(column: pl.Series, numbers_as: str | None) -> Times:
    """Numbers: YYYYMMDD, milliseconds since 1970, or seconds."""
    numbers = column.cast(pl.Float64)
    refuse_first(column, numbers.is_null() | ~numbers.is_finite())
    whole = bool((numbers == numbers.floor()).all())
    if numbers_as == YMD or (numbers_as is None and whole and numbers.is_between(EARLIEST_YMD, LATEST_YMD).all()):
        dates = numbers.cast(pl.Int64, strict=False).cast(pl.String).str.to_date("%Y%m%d", strict=False)
        # only some 4 % of arbitrary numbers of this size are dates, so 99 % leave no doubt
        if numbers_as == YMD or dates.null_count() <= 0.01 * dates.len():
            refuse_first(column, dates.is_null())
            return on_the_calendar(dates, YMD)
    if numbers_as == MILLISECONDS or (numbers_as is None and numbers.is_between(*MILLIS_RANGE).all()):
        refuse_first(column, numbers.abs() > LATEST_MILLISECOND)
        times = numbers.round().cast(pl.Int64).cast(pl.Datetime("ms")).cast(pl.Datetime("us"))
        return on_the_calendar(times, MILLISECONDS)
    return in_seconds(numbers, SECONDS)


def from_text(text: pl.Series, numbers_as: str | None) -> Times:
    """ISO 8601 dates or datetimes, all with or all without an offset from UTC; or numbers."""
    empty = text.is_null() | (text == "")
    refuse_first(text, empty.fill_null(value=True))
    numbers = text.cast(pl.Float64, strict=False)
    if numbers.is_not_null().all():
        return from_numbers(numbers, numbers_as)
    plain = text.str.replace(r"^(\d{4}-\d\d-\d\d)[Tt]", "${1} ")
    dates = plain.str.to_datetime(DATE_FORMAT, strict=False, time_unit="us")
    if dates.is_not_null().all():
        return on_the_calendar(dates, "dates")
    local = coalesce(dates, *(as_datetime(plain, form) for form in (SECOND_FORMAT, MINUTE_FORMAT)))
    zoned_text = plain.str.replace("[zZ]$", "+00:00")
    zoned = coalesce(*(as_datetime(zoned_text, form + "%#z") for form in (SECOND_FORMAT, MINUTE_FORMAT)))
    if local.null_count() <= zoned.null_count():
        refuse_mixture(text, local, zoned, "without")
        return on_the_calendar(local, "dates and times")
    refuse_mixture(text, zoned, local, "with")
    return on_the_calendar(zoned, "dates and times, turned into UTC")


def as_datetime(text: pl.Series, form: str) -> pl.Series:
    """Text in this form as Datetime; null where it is not."""
    return text.str.to_datetime(form, strict=False, time_unit="us")


def coalesce(*columns: pl.Series) -> pl.Series:
    """The first value of each row that is not null."""
    return pl.select(pl.coalesce(*columns)).to_series()


def refuse_mixture(text: pl.Series, chosen: pl.Series, other: pl.Series, offset: str) -> None:
    """Refuse rows that hold no time, and rows that hold one of the other sort."""
    row = chosen.is_null().arg_max() if chosen.null_count() else None
    if row is not None and other[row] is not None:
        raise TableError(
            f"time column {text.name!r}, row {row + 1} holds {shown(text[row])}, but most times are {offset} an "
            "offset from UTC: write all of them in one way"
        )
    refuse_first(text, chosen.is_null())
