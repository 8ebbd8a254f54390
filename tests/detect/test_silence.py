"""Silence is scored by the time to the next event, and a missing value is no silence."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from gapcell.detect import Detector, EventTable, TableError
from gapcell.detect.silence import with_imagined
from gapcell.detect.tail_map import TailMap

SCORE = 1e-6  # how far a score may be from the same one made beside other entities


def weekly(customer: str, events: int, *, gap_days: float = 3.0) -> pl.DataFrame:
    """A customer who comes as regularly as the others, from May 2024 on."""
    start = datetime(2024, 5, 1, 12)
    return pl.DataFrame(
        {
            "customer": [customer] * events,
            "time": [start + timedelta(days=gap_days * event) for event in range(events)],
            "amount": [20.0 + event % 3 for event in range(events)],
            "channel": ["web"] * events,
            "gift": [False] * events,
        }
    )


def only(found: pl.DataFrame, customer: str) -> dict:
    (row,) = found.filter(entity=customer).iter_rows(named=True)
    return row


def test_a_longer_silence_is_stranger(detector: Detector) -> None:
    table = detector.read(weekly("ann", 8))
    moments = ("05-22T18:00", "05-24T12:00", "05-25T12:00", "06-25", "12-25")
    scores = [only(detector.silence(table, f"2024-{moment}"), "ann")["score"] for moment in moments]
    assert scores == sorted(scores)
    assert scores[0] < 1 < 3 < scores[-1]


def test_it_is_the_tail_of_the_gap_that_would_end_it(detector: Detector) -> None:
    """Looked at from the time of the next event, the silence is as strange as that event's gap is long."""
    frame = weekly("ann", 9, gap_days=4.0)
    detector = replace(detector, own_maps=(TailMap(),) * len(detector.features))  # as the prediction states it
    whole = detector.score(detector.read(frame)).frame
    silent = only(detector.silence(detector.read(frame.head(8)), str(frame["time"][8])), "ann")
    two_sided = whole["score_own_time_since_last"][8]  # twice the smaller tail, which is the upper one here
    assert silent["waited"] == 4 * 86_400
    assert silent["score"] == pytest.approx(two_sided + math.log(2), abs=SCORE)


def test_rows_tell_who_since_when_and_why(detector: Detector, table: EventTable) -> None:
    found = detector.silence(table)
    assert found.columns == ["entity", "last", "waited", "score", "reason"]
    assert sorted(found["entity"]) == sorted(set(table.entity))
    assert found["score"].is_sorted(descending=True)
    assert found["score"].min() >= 0
    lasts = dict(pl.DataFrame({"who": table.entity, "t": table.time}).group_by("who").agg(pl.max("t")).iter_rows())
    assert dict(found.select("entity", "last").iter_rows()) == lasts
    latest = found.filter(pl.col("last") == table.time.max())
    assert latest["waited"].to_list() == [0.0]
    length = r"[\d.,]+( (second|minute|hour|day|week|month)s?)?"
    reason = rf"(as expected: )?{length} since the last event; usually {length} to {length} \(own history\)"
    assert all(re.fullmatch(reason, text) for text in found["reason"])


def test_a_missing_value_is_not_a_silence(detector: Detector) -> None:
    """The last event has nothing but its time: it ends the silence before it all the same, and its gap is observed."""
    frame = weekly("ann", 8)
    bare = frame.with_columns(
        pl.when(pl.int_range(pl.len()) < 7).then(pl.col(name)).alias(name) for name in ("amount", "channel", "gift")
    )
    found = only(detector.silence(detector.read(bare), "2024-05-25"), "ann")
    assert found["last"] == frame["time"][7]
    absent = only(detector.silence(detector.read(frame.head(7)), "2024-05-25"), "ann")
    assert absent["waited"] == found["waited"] + 3 * 86_400
    assert absent["score"] > found["score"]
    scored = detector.score(detector.read(bare)).frame
    assert scored["score_own_amount"][7] is None
    assert scored["score_own_time_since_last"][7] is not None


def test_a_silence_is_not_a_missing_value(detector: Detector) -> None:
    """An entity that is only looked at later has the events, and the scores of events, that it had."""
    table = detector.read(weekly("ann", 8))
    before = detector.score(table).frame
    assert only(detector.silence(table, "2025-05-25"), "ann")["score"] > 3
    assert detector.score(table).frame.equals(before)
    assert before["reason"].str.contains("not scored").sum() == 0


def test_silence_does_not_depend_on_who_else_is_there_nor_on_order(detector: Detector) -> None:
    both = pl.concat([weekly("ann", 8), weekly("bob", 3, gap_days=0.5)])
    shuffled = both[np.random.default_rng(1).permutation(both.height)]
    alone = only(detector.silence(detector.read(weekly("bob", 3, gap_days=0.5)), "2024-06-25"), "bob")
    for frame in (both, shuffled):
        beside = only(detector.silence(detector.read(frame), "2024-06-25"), "bob")
        assert beside["score"] == pytest.approx(alone["score"], abs=SCORE)
        assert beside["last"] == alone["last"]


def test_what_comes_after_the_time_is_not_looked_at(detector: Detector) -> None:
    both = pl.concat([weekly("ann", 8), weekly("bob", 3).with_columns(pl.col("time").dt.offset_by("1y"))])
    found = detector.silence(detector.read(both), "2024-05-15")
    assert found["entity"].to_list() == ["ann"]
    early = only(detector.silence(detector.read(weekly("ann", 5)), "2024-05-15"), "ann")
    assert only(found, "ann")["score"] == pytest.approx(early["score"], abs=SCORE)


def test_a_time_before_all_events_is_refused(detector: Detector) -> None:
    with pytest.raises(TableError, match=r"no event lies at or before `at` .* look from a later time"):
        detector.silence(detector.read(weekly("ann", 3)), "2020-01-01")


def test_an_imagined_event_knows_nothing_but_its_time(table: EventTable) -> None:
    grown = with_imagined(table, float(table.seconds.max()))
    added = grown.values[len(table.codes) :]
    assert added.height == len(table.starts) - 1
    assert added.null_count().sum_horizontal()[0] == added.height * added.width
    assert (grown.order[grown.starts[1:] - 1] >= len(table.codes)).all()
