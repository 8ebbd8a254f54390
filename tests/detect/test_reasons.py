"""Reasons say what came, what was expected, by whom, and what was not scored."""

from __future__ import annotations

import math
import re
import time
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from gapcell.detect import Detector, EventTable, read_table
from gapcell.detect.columns import Column
from gapcell.detect.features import GAP, FeatureSpec, Scaling
from gapcell.detect.reasons import expected_in_words, reasons, title_of
from gapcell.detect.results import Aside, Feature
from gapcell.detect.scoring import Scored

from .conftest import one_customer

DAY = 86_400.0
PLAIN = Scaling(logarithmic=False, unit=1e9, centre=0.0, spread=1e-9)  # the identity, as asinh is one near zero
GAPS = Scaling(logarithmic=True, unit=1.0, centre=0.0, spread=1.0)
SPECS = (
    FeatureSpec("paid", "numeric", PLAIN),
    FeatureSpec("channel", "categorical", categories=("web", "shop")),
    FeatureSpec("gift", "boolean"),
    FeatureSpec(GAP, "gap", GAPS),
    FeatureSpec("recent_reports", "reports", PLAIN),
)
SPECS = (*SPECS, SPECS[0], *SPECS[3:])
STREAMS = (None,) * 5 + ("terminal",) * 3
FEATURES = tuple(
    Feature(spec.name + end, spec.kind, "two-sided", "mixture", "mixture", spec.name, stream)
    for spec, stream, end in zip(SPECS, STREAMS, [""] * 5 + ["_by_terminal"] * 3, strict=True)
)  # fmt: skip
PAID, CHANNEL, GIFT, SINCE, REPORTED, PAID_THERE, SINCE_THERE, REPORTED_THERE = range(8)


@pytest.fixture(scope="module")
def orders() -> EventTable:
    """Three events of one customer: at once, after three days, after nine weeks."""
    frame = pl.DataFrame(
        {
            "who": ["ann"] * 3,
            "when": [datetime(2024, 1, 1) + timedelta(days=day) for day in (0, 3, 66)],
            "paid": [25.0, None, 1034.0],
            "channel": ["web", "fax", "shop"],
            "gift": [False, True, None],
        }
    )
    return read_table(frame, entity="who", time="when", values=["paid", Column("channel", "categorical"), "gift"])


def why(
    table: EventTable,
    row: int,
    decided: int,
    ends: tuple[float, float],
    *,
    tail: str = "two-sided",
    part: float = 8.0,
    common: bool = False,
    alarm: float | None = None,
) -> str:
    """The reason of one event when this feature decided with these ends of what was expected."""
    rows = len(table.codes)
    own = np.full((rows, len(SPECS)), 0.5)
    own[table.values["paid"].is_null().to_numpy(), PAID] = math.nan
    own[table.values["gift"].is_null().to_numpy(), GIFT] = math.nan
    own[np.isnan(table.since_last()), SINCE] = math.nan
    own[:, PAID_THERE] = own[:, PAID]
    own[row, decided] = part
    feature, judged = np.full(rows, -1), np.zeros(rows, dtype=bool)
    feature[row], judged[row] = decided, common
    low, high = np.full(rows, ends[0]), np.full(rows, ends[1])
    scored = Scored(own, own, np.full(rows, part), feature, judged, low, high)
    features = tuple(replace(feature, tail=tail) for feature in FEATURES)
    derived = {
        "time_since_last_by_terminal": np.full(rows, 4.0), "recent_reports": np.full(rows, 2.7),
        "recent_reports_by_terminal": np.array([math.nan, 1.0, 1.0]),
    }  # fmt: skip
    aside = Aside(derived, None if alarm is None else np.full(rows, alarm))
    return reasons(table, SPECS, features, scored, aside)[row]


def since(seconds: float) -> float:
    return math.log(seconds + 1)


WEEKS = (since(14 * DAY), since(35 * DAY))
HOUR = (since(60), since(3600))


@pytest.mark.parametrize(
    ("row", "decided", "ends", "options", "words"),
    [
        (2, PAID, (20, 60), {}, "paid 1,034; usually 20 to 60 (own history); 9 weeks since the last event, 2 earlier"),
        (2, PAID, (20, 60), {"tail": "upper"}, "paid 1,034; usually up to 60 (own history); 9 weeks since"),
        (2, PAID, (20, 60), {"tail": "lower"}, "paid 1,034; usually at least 20 (own history); 9 weeks since"),
        (2, PAID, (20, 60), {"common": True}, "paid 1,034; usually 20 to 60 (all events); 9 weeks since"),
        (2, PAID_THERE, (20, 60), {}, "paid 1,034; usually 20 to 60 (history of this terminal); 9 weeks"),
        (2, PAID, (-3, 60), {}, "paid 1,034; usually 0 to 60 (own history)"),
        (2, PAID, (20, 60), {"alarm": 0.43}, "probability .43, above all because paid 1,034; usually 20 to 60"),
        (0, PAID, (20, 60), {"part": 0.1}, "as expected: paid 25; usually 20 to 60 (first events); no earlier events"),
        (1, CHANNEL, (0, 0.934), {}, "channel 'fax' (seldom or never seen in training); usually 'web', 93 % (own his"),
        (2, CHANNEL, (2, 0.5), {}, "channel 'shop'; usually another one, 50 % (own history)"),
        (1, GIFT, (0, 0.9), {}, "gift yes; usually no, 90 % (own history); 3 days since the last event, 1 earlier ev"),
        (2, SINCE, WEEKS, {}, "9 weeks since the last event; usually 2 to 5 weeks (own history); 2 earlier events"),
        (2, SINCE_THERE, HOUR, {}, "4 seconds since the last event of this terminal; usually 1 minute to "
         "1 hour (history of this terminal); 9 weeks since the last event, 2 earlier events"),
        (2, REPORTED, (0, 0), {}, "3 recent events reported; usually 0 (own history)"),
        (2, REPORTED_THERE, (0, 0), {"tail": "upper"}, "1 recent event of this terminal reported; usually up to 0"),
    ],
)  # fmt: skip
def test_reasons_read_like_this(
    orders: EventTable, row: int, decided: int, ends: tuple[float, float], options: dict, words: str
) -> None:
    assert why(orders, row, decided, ends, **options).startswith(words)


def test_what_was_not_scored_is_said_with_its_reason(orders: EventTable) -> None:
    assert why(orders, 2, PAID, (20, 60)).endswith("2 earlier events (not scored: gift is missing)")
    assert "(not scored: paid is missing)" in why(orders, 1, GIFT, (0, 0.9))
    assert "not scored" not in why(orders, 0, PAID, (20, 60))  # a first event has no time before it, and says so once


def test_an_event_of_which_nothing_is_scored_says_why(orders: EventTable) -> None:
    nothing, none = np.full((3, 4), math.nan), np.full(3, math.nan)
    rest = none, np.full(3, -1), np.zeros(3, bool), none, none
    found = reasons(orders, SPECS[:4], FEATURES[:4], Scored(nothing, nothing, *rest), Aside({}, alarm=none))
    assert found.to_list() == [
        "not scored: no earlier event to measure the time from",
        "not scored: paid is missing",
        "not scored: gift is missing",
    ]
    unwanted = reasons(orders, SPECS[1:2], FEATURES[1:2], Scored(nothing[:, 1:2], nothing[:, 1:2], *rest))
    assert unwanted[0] == "not scored: none of its features is to be scored"


def test_titles_say_what_a_feature_is() -> None:
    places = (PAID, SINCE, REPORTED, PAID_THERE, SINCE_THERE, REPORTED_THERE)
    assert [title_of(FEATURES[place]) for place in places] == [
        "paid", "time since the last event", "recent reports",
        "paid, by terminal", "time since the last event of this terminal", "recent reports of this terminal",
    ]  # fmt: skip


def test_negative_amounts_keep_a_negative_expectation() -> None:
    low, high = np.array([-50.0]), np.array([-2.0])
    assert expected_in_words(SPECS[PAID], "two-sided", low, high)[0] == "-50 to -2"


def test_reasons_come_from_the_fitted_predictions(detector: Detector) -> None:
    seconds = [datetime(2024, 5, 1 + 3 * min(day, 4), 12, 0, max(day - 4, 0) * 2) for day in range(6)]

    def last(**columns: list[object]) -> str:
        return detector.score(detector.read(one_customer(**columns))).frame["reason"][5]

    number, length, by = r"[\d.,e+]+", r"[\d.,]+( (second|minute|hour|day|week)s?)?", r"\((own history|all events)\)"
    after, before = "; 3 days since the last event, 5 earlier events", "; 5 earlier events"
    large = last(amount=[20, 25, 22, 21, 24, 2e9])
    assert re.fullmatch(rf"amount 2,000,000,000; usually {number} to {number} {by}{after}", large)
    pigeon = last(channel=["web"] * 5 + ["carrier pigeon"])
    assert re.fullmatch(
        r"channel 'carrier pigeon' \(seldom or never seen in training\); usually '(web|shop|phone)', \d+ % "
        rf"{by}{after}",
        pigeon,
    )
    soon = last(time=seconds)
    assert re.fullmatch(rf"2 seconds since the last event; usually {length} to {length} {by}{before}", soon)


def test_the_reasons_of_many_events_are_a_matter_of_seconds() -> None:
    """50,000 here, and a million within 5 seconds: a twentieth of that, and as much again for slow machines."""
    draws, rows = np.random.default_rng(0), 50_000
    frame = pl.DataFrame({"who": draws.integers(0, 500, rows), "when": draws.uniform(0, 1e7, rows),
                          "paid": np.exp(draws.normal(3, 1, rows)).round(2)})  # fmt: skip
    table = read_table(frame, entity="who", time="when")
    own = draws.exponential(1, (rows, 2))
    own[np.isnan(table.since_last()), 1] = math.nan
    decided = np.nanargmax(own, 1)
    ends = draws.normal(2, 0.3, rows), draws.normal(4, 0.3, rows)
    scored = Scored(own, own, np.nanmax(own, 1), decided, draws.random(rows) < 0.3, *ends)
    kinds = SPECS[PAID], SPECS[SINCE]
    start = time.process_time()
    found = reasons(table, kinds, (FEATURES[PAID], FEATURES[SINCE]), scored)
    assert time.process_time() - start < 0.5
    assert found.n_unique() > 0.9 * rows
