"""Numbers, durations, moments and names as people read them."""

from datetime import datetime

import pytest

from gapcell.detect.wording import amount, duration, moment, odds, printable, share, whole_days

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
        (DAY, "1 day"), (14 * DAY, "14 days"), (400 * DAY, "1.1 years"), (-120, "-2 minutes"),
    ],
)  # fmt: skip
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_durations_in_days() -> None:
    assert [whole_days(days * DAY) for days in (0, 0.4, 0.6, 1, 95)] == [
        "the same day",
        "the same day",
        "1 day",
        "1 day",
        "95 days",
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
