"""An explanation holds every feature against what the model expected of it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import polars as pl
import pytest

from gapcell.detect import Detection, Detector, EventTable
from gapcell.detect.events import part_of
from gapcell.detect.explanations import Fact, explanation
from gapcell.detect.results import Aside, Feature


def test_the_sentence_is_the_reason(detector: Detector, detection: Detection, table: EventTable) -> None:
    row = int(detection.top["row"][0])
    explained = detector.explain(table, row)
    assert explained.row == row
    assert explained.entity == table.entity[row]
    assert str(explained) == explained.sentence == detection.frame["reason"][row]
    assert explained.score == pytest.approx(detection.frame["score"][row], abs=1e-6)
    assert explained.alert
    assert explained.context.endswith(f"since the last event; {detection.frame['history'][row]} earlier events")


def test_facts_are_the_parts_of_the_score_and_the_model_s_own_expectations(
    detector: Detector, detection: Detection, table: EventTable
) -> None:
    for row in (*detection.top["row"].to_list()[:3], int(table.order[5])):
        explained, event = detector.explain(table, row), detection.frame.row(row, named=True)
        assert [fact.feature for fact in explained.facts] == [feature.name for feature in detection.features]
        (decided,) = (fact for fact in explained.facts if fact.decided)
        assert decided.feature == event["feature"]
        for fact in explained.facts:
            parts = [event[f"score_{judge}_{fact.feature}"] for judge in ("own", "population")]
            if parts[0] is None:
                assert (fact.probability, fact.odds, fact.not_scored is None) == (None, "—", False)
                continue
            assert fact.not_scored is None
            assert fact.probability == pytest.approx(math.exp(-max(parts)), rel=1e-5)
            assert fact.whose == ("own history" if parts[0] >= parts[1] else "all events")
            if fact.probability > 0.2:
                assert fact.odds == "usual"
            assert fact.expected != "—"
        if decided.feature != "time_since_last":
            assert f"usually {decided.expected} ({decided.whose})" in explained.sentence


def test_the_population_expects_the_same_of_every_event(detection: Detection) -> None:
    assert detection.common.height == 1
    assert set(detection.common.columns) == set(detection.bands.columns) - {"row"}
    assert detection.common["low_amount"][0] < detection.common["high_amount"][0]


def test_a_missing_value_has_a_reason_and_no_odds(detector: Detector, table: EventTable) -> None:
    row = int(table.values["amount"].is_null().arg_max())
    amount = detector.explain(table, row).facts[0]
    assert (amount.value, amount.came, amount.odds, amount.not_scored) == (None, "missing", "—", "amount is missing")


def test_a_first_event_is_held_against_first_events(detector: Detector, table: EventTable) -> None:
    explained = detector.explain(table, int(table.order[0]))
    assert explained.context == "no earlier events"
    assert explained.facts[-1].not_scored == "no earlier event to measure the time from"
    assert {fact.whose for fact in explained.facts} <= {"first events", "all events"}


def test_a_row_that_is_not_there_is_refused(detector: Detector, table: EventTable) -> None:
    with pytest.raises(IndexError, match=r"row \(=1200\) is not in the table, whose 1,200 events are numbered from 0"):
        detector.explain(table, 1200)


def test_a_further_stream_explains_too(detection: Detection) -> None:
    """Made up: the terminal's own prediction found the amount far stranger, and expected something else."""
    row = int(detection.top["row"][0])
    there = Feature("amount_by_terminal", "numeric", "two-sided", "mixture", "mixture", "amount", "terminal")
    beside = dataclasses.replace(
        detection,
        frame=detection.frame.with_columns(score_own_amount_by_terminal=pl.lit(math.log(4000.0))),
        bands=detection.bands.with_columns(low_amount_by_terminal=pl.lit(1.0), high_amount_by_terminal=pl.lit(2.0)),
        features=(there,),
    )
    (amount,) = explanation(beside, row).facts
    assert (amount.whose, amount.expected, amount.odds) == ("history of this terminal", "1 to 2", "1 in 4,000")
    assert amount.value == detection.table.values["amount"][row]
    assert amount.title == "amount, by terminal"


def test_derived_features_are_explained(detection: Detection) -> None:
    rows = detection.frame.height
    beside = dataclasses.replace(
        detection,
        frame=detection.frame.with_columns(score_own_reports=pl.lit(5.0), score_population_reports=pl.lit(1.0)),
        bands=detection.bands.with_columns(low_reports=pl.lit(0.0), high_reports=pl.lit(1.0)),
        aside=Aside({"reports": np.full(rows, 3.0)}),
        features=(Feature("reports", "reports", "upper", "mixture", "mixture"),),
    )
    (fact,) = explanation(beside, int(detection.top["row"][0])).facts
    assert (fact.value, fact.came, fact.expected, fact.whose) == (3.0, "3", "up to 1", "own history")


def test_odds_of_what_cannot_be_are_finite() -> None:
    fact = Fact("x", "x", 1.0, "1", "2", "own history", 0.0, None, decided=True)
    assert fact.odds == "beyond 1 in a billion"


def test_a_part_of_a_table_is_the_table_of_its_rows(table: EventTable) -> None:
    rows = table.rows_of(7)
    part = part_of(table, rows[::-1])
    assert part.entity.to_list() == table.entity[rows[::-1]].to_list()
    assert part.rows_of(0).tolist() == list(range(len(rows)))[::-1]
    assert (part.reading.rows, part.reading.entities) == (len(rows), 1)
    assert part.reading.missing[0] == part.values["amount"].null_count()
    assert part.earlier().tolist() == table.earlier()[rows[::-1]].tolist()
