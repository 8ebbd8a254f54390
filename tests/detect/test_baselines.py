"""Injected anomalies are what they say, and the simpler detectors find what they can find."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import polars as pl
import pytest

from gapcell.detect import Detector, EventTable, TableError, fit, read_table
from gapcell.detect.baselines import compare, encoded_events, forest, robust_z
from gapcell.detect.injection import BURST, FACTOR, Injected, inject
from gapcell.detect.model import Sequences
from gapcell.detect.results import Comparison, Split
from gapcell.detect.scoring import Scored

from .conftest import QUICK, purchases

RAPID = 60.0


@pytest.fixture(scope="module")
def injected(table: EventTable, detector: Detector) -> Injected:
    return inject(table, detector.split, RAPID, seed=1)


@pytest.fixture(scope="module")
def comparison(table: EventTable, detector: Detector) -> Comparison:
    return detector.compare(table)


def test_nothing_before_the_test_part_is_touched(table: EventTable, detector: Detector, injected: Injected) -> None:
    early = np.flatnonzero(table.seconds < detector.split.test_from)
    assert injected.table.values[early].equals(table.values[early])
    assert injected.table.entity.gather(early).equals(table.entity.gather(early))
    np.testing.assert_array_equal(injected.table.seconds[early], table.seconds[early])
    assert (injected.kind[early] == "").all()
    assert (injected.table.seconds[injected.kind != ""] >= detector.split.test_from).all()


def test_amounts_are_multiplied(table: EventTable, injected: Injected) -> None:
    rows = np.flatnonzero(injected.kind == "amount")
    assert len(rows) == 3  # 1 % of 240 test events
    before, after = table.values["amount"].gather(rows), injected.table.values["amount"].gather(rows)
    np.testing.assert_allclose(after, before * FACTOR)
    untouched = np.flatnonzero(injected.kind[: len(table.codes)] != "amount")
    assert injected.table.values["amount"].gather(untouched).equals(table.values["amount"].gather(untouched))


def test_a_burst_follows_a_real_event_of_its_entity(table: EventTable, injected: Injected) -> None:
    burst = injected.table
    rows = np.flatnonzero(injected.kind == "burst")
    assert len(rows) % BURST == 0
    assert (rows >= len(table.codes)).all()
    gaps = burst.since_last()[rows]
    assert (gaps <= RAPID + 1e-6).all()
    known = set(zip(table.entity, table.values["amount"], strict=True))
    assert set(zip(burst.entity.gather(rows), burst.values["amount"].gather(rows), strict=True)) <= known


def test_swapped_entities_exchange_their_tails(table: EventTable, detector: Detector, injected: Injected) -> None:
    rows = np.flatnonzero(np.isin(injected.kind, ["swap", "left out"]))
    assert len(rows) > 0
    new = injected.table.entity
    for row in rows:
        assert new[int(row)] != table.entity[int(row)]
    for entity in new.gather(rows).unique():
        tail = rows[(new.gather(rows) == entity).to_numpy()]
        assert table.entity.gather(tail).n_unique() == 1
        assert (injected.kind[tail] == "swap").sum() == min(3, len(tail))
        first = tail[np.argsort(table.seconds[tail], kind="stable")][:3]
        assert (injected.kind[first] == "swap").all()


def test_an_odd_number_of_entities_can_be_injected() -> None:
    """Many events of few entities: there are fewer pairs than the share of events asks for."""
    table = read_table(purchases(customers=5, events=700, seed=3))
    late = float(np.quantile(table.seconds, 0.4))
    kinds = inject(table, Split(late / 2, late * 0.7, late), RAPID, seed=0).kind
    assert set(kinds) == {"", "amount", "burst", "swap", "left out"}


def test_no_entity_is_hit_twice(injected: Injected) -> None:
    hit = {}
    for row in np.flatnonzero(injected.kind != ""):
        kind = "swap" if injected.kind[row] == "left out" else injected.kind[row]
        assert hit.setdefault(injected.table.entity[int(row)], kind) == kind


def test_the_seed_says_what_is_injected(table: EventTable, detector: Detector, injected: Injected) -> None:
    again, other = (inject(table, detector.split, RAPID, seed=seed) for seed in (1, 2))
    assert again.table.values.equals(injected.table.values)
    assert (again.kind == injected.kind).all()
    assert len(other.kind) != len(injected.kind) or (other.kind != injected.kind).any()


def test_without_entities_on_both_sides_nothing_can_be_injected() -> None:
    frame = pl.DataFrame({"user": ["a"] * 3 + ["b"] * 3, "t": [0, 1, 2, 5, 6, 7], "x": [1.5, 2.0, 3.0] * 2})
    split = Split(3.0, 4.0, 5.0)
    with pytest.raises(TableError, match="no entity has events both before and in the test part"):
        inject(read_table(frame), split, RAPID, seed=0)


def test_a_comparison_has_every_method_and_kind_and_is_reproducible(
    table: EventTable, detector: Detector, comparison: Comparison
) -> None:
    frame = comparison.frame
    assert frame["method"].unique(maintain_order=True).to_list() == [
        "gapcell",
        "network on x*mask",
        "heads without history",
        "isolation forest",
        "robust z-score",
    ]
    assert frame["kind"].unique(maintain_order=True).to_list() == ["amount", "burst", "swap", "all"]
    assert frame["average_precision"].is_between(0, 1).all()
    assert frame["base_rate"].is_between(0, 0.5).all()
    by_kind = dict(frame.filter(pl.col("method") == "gapcell").select("kind", "injected").iter_rows())
    assert by_kind["all"] == by_kind["amount"] + by_kind["burst"] + by_kind["swap"]

    def judge(events: EventTable) -> Scored:
        return detector.judge(events, detector.reads(events))

    assert compare(detector, judge, table, lambda stage, done, total: None).frame.equals(frame)


def test_a_multiplied_amount_is_found_better_than_at_random(comparison: Comparison) -> None:
    found = comparison.frame.filter((pl.col("kind") == "amount") & (pl.col("method") == "gapcell"))
    assert found["average_precision"][0] > 10 * found["base_rate"][0]


def test_a_z_score_is_against_the_earlier_events_alone(detector: Detector) -> None:
    frame = pl.DataFrame(
        {
            "customer": ["a"] * 9,
            "time": [datetime(2024, 1, 1 + day) for day in range(9)],
            "amount": [10.0, 11, 9, 10, 11, 9, 10, None, 200],
            "channel": ["web"] * 9,
            "gift": [False] * 9,
        }
    )
    table = detector.read(frame)
    encoded = encoded_events(detector, table)
    whole = robust_z(detector.encoding, encoded.value, table, encoded)
    assert whole.argmax() == 8
    part = detector.read(frame.head(8))
    again = robust_z(detector.encoding, encoded.value, part, encoded_events(detector, part))
    np.testing.assert_allclose(again, whole[:8], rtol=1e-12)


def test_the_forest_takes_missing_values_and_no_history(table: EventTable, detector: Detector) -> None:
    encoded = encoded_events(detector, table)
    scores = forest(detector, table, encoded, table, encoded)
    assert scores.shape == table.codes.shape
    assert np.isfinite(scores).all()


def test_the_network_on_zeros_is_given_no_mask(detector: Detector, table: EventTable) -> None:
    encoded = encoded_events(detector, table)
    sequences = Sequences.of(encoded, table.seconds[table.order]).without_mask(detector.encoding.flags)
    assert bool(sequences.observed.all())
    assert sequences.inputs.shape[1] == detector.encoding.channels - len(detector.features)
    values = detector.encoding.flags.start
    assert bool((sequences.inputs[:, :values].numpy()[~encoded.observed[:, :values]] == 0).all())


def test_a_table_of_times_alone_can_be_compared() -> None:
    table = read_table(purchases(customers=30, events=12).select("customer", "time"))
    comparison = fit(table, QUICK).compare(table)
    amount = comparison.frame.filter(pl.col("kind") == "amount")
    assert amount["injected"].to_list() == [0] * 5
    assert amount["average_precision"].null_count() == 5
