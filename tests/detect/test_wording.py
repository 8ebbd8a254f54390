"""Numbers, durations, moments and names as people read them."""

from datetime import datetime

import numpy as np
import pytest

from gapcell.detect.wording import (
    amount,
    amount_ranges,
    amounts,
    counted,
    duration,
    duration_ranges,
    durations,
    moment,
    odds,
    printable,
    probability,
    share,
    whole_days,
)

DAY = 86_400


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1286.01, "1,286.01"), (3, "3"), (3.0, "3"), (-12.5, "-12.50"), (2.3456, "2.35"), (0.012345, "0.0123"),
        (0, "0"), (1e10, "10,000,000,000"), (1e20, "1e+20"), (-1.5e300, "-1.5e+300"),
    ],
)  # fmt: skip
def test_amounts(value: float, words: str) -> None:
    assert amount(value) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 seconds"), (1, "1 second"), (40, "40 seconds"), (60, "1 minute"), (3.2 * 3600, "3.2 hours"),
        (DAY, "1 day"), (14 * DAY, "14 days"), (28 * DAY, "4 weeks"), (63 * DAY, "9 weeks"), (95 * DAY, "3.1 months"),
        (400 * DAY, "13 months"), (800 * DAY, "2.2 years"), (-120, "-2 minutes"),
    ],
)  # fmt: skip
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (14 * DAY, 35 * DAY, ("2", "5 weeks")), (3 * 3600, 35 * DAY, ("3 hours", "5 weeks")),
        (2 * DAY, 4 * DAY, ("2", "4 days")), (5, 30, ("5", "30 seconds")), (0, 7200, ("0", "2 hours")),
        (11 * DAY, 35 * DAY, ("11 days", "5 weeks")),
    ],
)  # fmt: skip
def test_a_range_of_durations_has_one_unit_where_that_is_natural(
    low: float, high: float, words: tuple[str, str]
) -> None:
    first, last = duration_ranges(np.array([low, 9.0]), np.array([high, 9.0]))
    assert (first[0], last[0]) == words


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (20.04, 61.2567, ("20", "61")), (0.012345, 1_234_567, ("0.012", "1,200,000")), (3, 5, ("3", "5")),
        (1013.213, 1013.904, ("1,013.21", "1,013.90")), (-0.0, 9, ("0", "9")), (1e300, 2e300, ("1e+300", "2e+300")),
        (7.25, 7.25, ("7.25", "7.25")), (-1.5e300, 1.5e300, ("-1.5e+300", "1.5e+300")), (0, 0, ("0", "0")),
    ],
)  # fmt: skip
def test_a_range_of_amounts_is_no_finer_than_a_forecast(low: float, high: float, words: tuple[str, str]) -> None:
    first, last = amount_ranges(np.array([low, 4.0]), np.array([high, 8.0]))
    assert (first[0], last[0]) == words


def test_many_at_once_read_as_one_by_one() -> None:
    draws = np.random.default_rng(0)
    seconds = np.append(np.exp(draws.uniform(0, 19, 5000)), [0, 59.99, 86_399.99, -120])
    assert durations(seconds).tolist() == [duration(value) for value in seconds.tolist()]
    values = np.round(np.append(np.exp(draws.uniform(-4, 25, 500)), [0, 3, -2.5, 3]), 2)
    assert amounts(values).tolist() == [amount(value) for value in values.tolist()]
    assert durations(np.array([])).tolist() == amounts(np.array([])).tolist() == []


def test_counts_and_probabilities() -> None:
    assert [counted(count, "earlier event") for count in (0, 1, 1400)] == [
        "no earlier events",
        "1 earlier event",
        "1,400 earlier events",
    ]
    assert [probability(p) for p in (0.004, 0.43, 0.5, 0.98, 0.999)] == ["under .01", ".43", ".50", ".98", "over .99"]


def test_durations_in_days() -> None:
    assert [whole_days(days * DAY) for days in (0, 0.4, 0.6, 1, 95)] == [
        "the same day",
        "the same day",
        "1 day",
        "1 day",
        "3.1 months",
    ]


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (1, "1 in 1"), (2.5, "1 in 2.5"), (1000, "1 in 1,000"), (999_400, "1 in 999,400"), (999_600, "1 in 1 million"),
        (18_673_609, "1 in 19 million"), (1e9, "beyond 1 in a billion"), (float("inf"), "beyond 1 in a billion"),
    ],
)  # fmt: skip
def test_odds(times: float, words: str) -> None:
    assert odds(times) == words


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (0, "none"), (10**7, "all"), (10**7 - 1, "over 99 %"), (1_200_000, "12 %"), (130_000, "1.3 %"),
        (1, "under 0.0001 %"),
    ],
)  # fmt: skip
def test_shares(part: int, words: str) -> None:
    assert share(part, 10**7) == words


def test_moments() -> None:
    assert moment(datetime(1998, 1, 2, 14, 5)) == "2 January 1998, 14:05"
    assert moment(datetime(1998, 1, 2), has_hours=False) == "2 January 1998"
    assert moment(12 * DAY + 12_000.0) == "day 12, 03:20:00"


def test_text_from_a_table_is_one_harmless_line() -> None:
    assert printable("a\nb\x1b[31m\u202ec\x00") == "a�b�[31m�c�"
    assert printable("x" * 100, longest=10) == "xxxxxxxxx…"
    assert printable("Zoë 漢字 <b>") == "Zoë 漢字 <b>"
    assert printable(8830) == "8830"
