"""Numbers, durations, moments and names as people read them."""

from __future__ import annotations

import unicodedata
from datetime import datetime

__all__ = ["amount", "duration", "moment", "odds", "printable", "share", "whole_days"]

UNITS = (("year", 365.25 * 86_400), ("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))


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


def duration(seconds: float) -> str:
    """A length of time in its largest unit: 14 days, 3.2 hours, 1 minute."""
    for unit, length in UNITS:
        if abs(seconds) >= length or unit == "second":
            count = seconds / length
            digits = f"{count:.1f}".removesuffix(".0") if abs(count) < 9.95 else f"{count:,.0f}"
            return f"{digits} {unit}" + ("" if digits == "1" else "s")
    raise AssertionError("the last unit takes everything")


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
