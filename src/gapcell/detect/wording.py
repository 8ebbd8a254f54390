"""Numbers, durations, moments and names as people read them."""

from __future__ import annotations

import unicodedata
from datetime import datetime

import numpy as np

__all__ = [
    "amount",
    "amount_ranges",
    "amounts",
    "counted",
    "duration",
    "duration_ranges",
    "durations",
    "moment",
    "odds",
    "printable",
    "probability",
    "share",
    "whole_days",
]

WEEK = 7 * 86_400
UNITS = (  # name, seconds, from how many seconds on it is the one people use
    ("year", 365.25 * 86_400, 2 * 365.25 * 86_400),
    ("month", 365.25 * 7_200, 13 * WEEK),
    ("week", WEEK, 4 * WEEK),
    ("day", 86_400, 86_400),
    ("hour", 3_600, 3_600),
    ("minute", 60, 60),
    ("second", 1, 0),
)
FIGURES = 2  # that an expectation is written with; it is known no better
MOST_ROUNDED = 0.1  # of the lower end of a range, to have the unit of the upper one


def printable(text: object, longest: int = 80) -> str:
    """Text from a table as one line that is safe to show: control characters become �, and it is cut when long.

    Markup is not escaped here; that belongs to whoever writes the page.
    """
    shown = "".join("�" if unicodedata.category(letter)[0] == "C" else letter for letter in str(text)[: longest + 1])
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def amount(value: float) -> str:
    """A value with two decimals, or three significant digits where it is small, and thousands set off: 1,286.01."""
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    if abs(value) >= 1e9:
        return f"{value:.4g}"
    return f"{value:,.2f}" if abs(value) >= 1 else f"{value:.3g}"


def amounts(values: np.ndarray) -> np.ndarray:
    """`amount` of many values (any,), as text; each different one is written once."""
    different, place = np.unique(values, return_inverse=True)
    return np.array([amount(value) for value in different.tolist()], dtype=object)[place]


def amount_ranges(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two ends of ranges of amounts (any,), no finer than a forecast is: 20 and 61, 1,013.20 and 1,013.90."""
    width = high - low
    return amounts(_as_known(low, width)), amounts(_as_known(high, width))


def _as_known(values: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Ends of ranges in steps that have two figures in the width of the range, and in the value itself."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        size = np.minimum(width, np.where(values == 0, np.inf, np.abs(values)))
        unit = 10.0 ** np.clip(np.floor(np.log10(size)) - FIGURES + 1, -300, 300)
        rounded = np.where(width > 0, np.round(values / unit) * unit, values) + 0.0  # no -0
    different, place = np.unique(rounded, return_inverse=True)
    return np.array([float(f"{value:.12g}") for value in different.tolist()])[place]  # 61.3 and no 61.300000000000004


def duration(seconds: float) -> str:
    """A length of time in the unit people use for it: 14 days, 9 weeks, 3.2 hours, 1 minute."""
    return durations(np.array([seconds]))[0]


def durations(seconds: np.ndarray) -> np.ndarray:
    """`duration` of many lengths of time (any,), as text; each different wording is made once."""
    words = np.empty(len(seconds), dtype=object)
    longest = np.inf
    for unit, length, least in UNITS:
        here = (np.abs(seconds) >= least) & (np.abs(seconds) < longest)
        different, place = np.unique(_figures(seconds[here], length), return_inverse=True)
        texts = [_written(count) for count in different.tolist()]
        words[here] = np.array([f"{text} {unit}{'' if text == '1' else 's'}" for text in texts], dtype=object)[place]
        longest = least
    return words


def duration_ranges(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two ends of ranges of times (any,), the first without its unit where both have the same: 2 and 5 weeks."""
    first, last = durations(low), durations(high)
    longest = np.inf
    for _, length, least in UNITS:
        count = _figures(low, length)
        near = (low == 0) | (low >= length) & (np.abs(count * length - low) <= MOST_ROUNDED * low)
        here = near & (high >= least) & (high < longest)
        different, place = np.unique(count[here], return_inverse=True)
        first[here] = np.array([_written(each) for each in different.tolist()], dtype=object)[place]
        longest = least
    return first, last


def _figures(seconds: np.ndarray, length: float) -> np.ndarray:
    """How many times a unit goes into lengths of time: with a decimal below ten, but whole weeks."""
    count = seconds / length
    return np.where((np.abs(count) < 9.95) & (length != WEEK), np.round(count, 1), np.round(count))


def _written(count: float) -> str:
    """A number with at most one decimal."""
    return f"{count:,.1f}".removesuffix(".0")


def counted(count: int, what: str) -> str:
    """How many of something: 1 earlier event, 14 earlier events, no earlier events."""
    return f"{count:,} {what}{'' if count == 1 else 's'}" if count else f"no {what}s"


def whole_days(seconds: float) -> str:
    """A length of time where only the days are known: 14 days, the same day."""
    days = round(seconds / 86_400)
    return duration(days * 86_400.0) if days else "the same day"


def odds(times: float) -> str:
    """1 in so many: 1 in 2.5, 1 in 1,000, 1 in 19 million, beyond 1 in a billion."""
    if times >= 1e9:
        return "beyond 1 in a billion"
    if times >= 999_500:
        return f"1 in {times / 1e6:,.0f} million"
    return f"1 in {times:,.0f}" if times >= 10 else f"1 in {times:.2g}"


def probability(p: float) -> str:
    """A probability as it is read: .43, over .99, under .01."""
    if p > 0.99:
        return "over .99"
    return f"{p:.2f}".removeprefix("0") if p >= 0.01 else "under .01"


def moment(time: datetime | float, *, has_hours: bool = True) -> str:
    """A time of a table: 2 January 1998, 14:05 on the calendar; day 12, 03:20:00 where there is none.

    Args:
        time: a datetime, or seconds since an unknown start.
        has_hours: False leaves out the hour on the calendar.
    """
    if isinstance(time, datetime):
        day = f"{time.day} {time:%B} {time.year}"
        return f"{day}, {time:%H:%M}" if has_hours else day
    day, second = divmod(time, 86_400)
    return f"day {day:,.0f}, {int(second // 3600):02d}:{int(second % 3600 // 60):02d}:{int(second % 60):02d}"


def share(part: float, whole: float) -> str:
    """A share in per cent, as fine as it must be: 12 %, 1.3 %, 0.02 %; "none" for nothing and "all" for everything."""
    if part == 0:
        return "none"
    if part == whole:
        return "all"
    percent = 100 * part / whole
    if percent >= 99.5:
        return "over 99 %"
    return f"{percent:.2g} %" if percent >= 1e-4 else "under 0.0001 %"
