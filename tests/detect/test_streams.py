"""Several keys and reports of labels: what stands in a stream, and that nothing of the future does."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapcell.detect import EventTable, TableError, read_table
from gapcell.detect.moments import running_moments
from gapcell.detect.streams import Stream, streams_of

DELAY = 100.0


def events(**columns: list[object]) -> EventTable:
    """Six events of two customers at two shops, one of them labelled."""
    plain = {
        "customer": ["a", "b", "a", "b", "a", "a"],
        "shop": ["x", "x", None, "y", "x", "y"],
        "t": [0.0, 10.0, 20.0, 30.0, 150.0, 400.0],
        "amount": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "fraud": [False, True, False, None, False, False],
    }
    return read_table(
        pl.DataFrame(plain | columns, strict=False), entity=("customer", "shop"), time="t", values=["amount"],
        label="fraud",
    )  # fmt: skip


def series_of(stream: Stream) -> list[list[tuple[int, bool]]]:
    """Row and whether it is a report, series by series."""
    pairs = list(zip(stream.row.tolist(), stream.report.tolist(), strict=True))
    return [pairs[b:e] for b, e in zip(stream.starts[:-1], stream.starts[1:], strict=True)]


def test_each_key_groups_the_same_events_and_an_event_without_a_key_is_in_no_such_stream() -> None:
    by_customer, by_shop = streams_of(events(), None)
    assert series_of(by_customer) == [
        [(0, False), (2, False), (4, False), (5, False)],
        [(1, False), (3, False)],
    ]
    assert series_of(by_shop) == [[(0, False), (1, False), (4, False)], [(3, False), (5, False)]]


def test_a_label_enters_every_stream_of_its_event_when_it_is_known() -> None:
    by_customer, by_shop = streams_of(events(), DELAY)
    assert series_of(by_customer)[1] == [(1, False), (3, False), (1, True)]
    assert series_of(by_shop)[0] == [(0, False), (1, False), (1, True), (4, False)]
    assert by_shop.seconds[by_shop.report].tolist() == [110.0]


def test_times_between_events_do_not_count_reports() -> None:
    _, by_shop = streams_of(events(), DELAY)
    np.testing.assert_array_equal(by_shop.since_last()[:4], [np.nan, 10.0, np.nan, 140.0])
    np.testing.assert_array_equal(by_shop.waited()[:4], [0.0, 10.0, 100.0, 40.0])


def test_recent_reports_fade_and_only_what_is_known_counts() -> None:
    _, by_shop = streams_of(events(), DELAY)
    half_life = DELAY / 4
    np.testing.assert_allclose(by_shop.recent_reports[:4], [0, 0, np.nan, 2 ** (-40 / half_life)])
    with pytest.raises(ValueError, match="the stream has no reports"):
        len(streams_of(events(), None)[1].recent_reports)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60))
def test_recent_reports_are_those_of_a_loop(seed: int, rows: int) -> None:
    draws = np.random.default_rng(seed)
    table = read_table(
        pl.DataFrame(
            {
                "who": draws.integers(0, 4, rows),
                "t": draws.uniform(0, 1000, rows).round(),
                "v": np.arange(rows) * 1.0,
                "y": draws.random(rows) < 0.3,
            }
        ),
        entity="who", time="t", values=["v"], label="y",
    )  # fmt: skip
    stream = streams_of(table, DELAY)[0]
    label, found = table.label.to_list(), stream.recent_reports
    for place in stream.happens.tolist():
        row, now = stream.row[place], stream.seconds[place]
        known = [
            other
            for other in range(rows)
            if label[other] and table.codes[other] == table.codes[row] and table.seconds[other] + DELAY < now
        ]
        wanted = sum(2 ** (-(now - table.seconds[other] - DELAY) / (DELAY / 4)) for other in known)
        assert found[place] == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_a_key_that_is_missing_or_named_twice_is_refused() -> None:
    frame = pl.DataFrame({"a": ["x"], "t": [1.0], "v": [1.0]})
    with pytest.raises(TableError, match="terminal"):
        read_table(frame, entity=("a", "terminal"), time="t")
    with pytest.raises(TableError, match="column 'a' is named twice among entity, time and label"):
        read_table(frame, entity=("a", "a"), time="t")


def test_the_names_of_made_features_are_refused() -> None:
    frame = pl.DataFrame({"a": ["x", "x"], "t": [1.0, 2.0], "recent_reports": [1.0, 2.0]})
    with pytest.raises(TableError, match="has the name of the feature made of the labels"):
        read_table(frame, entity="a", time="t")


def test_running_moments_are_those_of_a_loop_and_know_nothing_of_other_series() -> None:
    draws = np.random.default_rng(0)
    values = draws.normal(size=(20, 2))
    values[draws.random((20, 2)) < 0.3] = np.nan
    starts = np.array([0, 7, 7, 20])
    found, _ = running_moments(values, starts)
    for begin, end in pairwise(starts.tolist()):
        for place in range(begin, end):
            seen = values[begin : place + 1]
            for feature in range(2):
                known = seen[~np.isnan(seen[:, feature]), feature]
                mean = known.sum() / (len(known) + 3)
                spread = math.sqrt((np.square(known).sum() + 3) / (len(known) + 3) - mean * mean)
                wanted = [mean, spread - 1, math.log1p(len(known)) / 3]
                np.testing.assert_allclose(found[place, feature::2], wanted, rtol=1e-5, atol=1e-6)
        alone, _ = running_moments(values[begin:end], np.array([0, end - begin]))
        np.testing.assert_array_equal(alone, found[begin:end])
