"""Measures of scores against labels, by hand-counted cases."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from gapcell.detect.metrics import alerts_a_day, evaluate, precision_a_day


def test_measures_of_a_case_counted_by_hand() -> None:
    found = evaluate(pl.Series([0.9, 0.8, 0.7, 0.1]), pl.Series([True, False, True, False]), budget=0.5)
    assert (found.labelled, found.positives, found.alerts_at_budget) == (4, 2, 2)
    assert found.average_precision == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert found.roc_auc == pytest.approx(3 / 4)
    assert found.precision_at_budget == 0.5
    assert found.base_rate == 0.5


def test_unknown_labels_and_unscored_events_are_left_out() -> None:
    scores = pl.Series([5.0, 9.0, None, float("nan"), 1.0])
    labels = pl.Series([True, None, True, False, False])
    found = evaluate(scores, labels, budget=0.001)
    assert (found.labelled, found.positives, found.alerts_at_budget) == (2, 1, 1)
    assert (found.average_precision, found.roc_auc, found.precision_at_budget) == (1.0, 1.0, 1.0)


def test_a_constant_score_has_what_a_random_one_has() -> None:
    found = evaluate(pl.Series([1.0] * 10), pl.Series([True] + [False] * 9), budget=0.1)
    assert found.average_precision == pytest.approx(found.base_rate)
    assert found.roc_auc == 0.5


@pytest.mark.parametrize("labels", [[False, False], [None, None]])
def test_without_a_true_label_there_is_no_average_precision(labels: list[bool | None]) -> None:
    found = evaluate(pl.Series([1.0, 2.0]), pl.Series(labels, dtype=pl.Boolean), budget=0.5)
    assert found.positives == 0
    assert math.isnan(found.average_precision)
    assert math.isnan(found.roc_auc)


def test_all_true_has_no_roc_curve() -> None:
    found = evaluate(pl.Series([1.0, 2.0]), pl.Series([True, True]), budget=0.5)
    assert found.average_precision == 1.0
    assert math.isnan(found.roc_auc)


DAYS = np.array([0.1, 0.2, 0.3, 1.1, 1.2, 3.5]) * 86_400
SCORES = pl.Series([9.0, 8.0, 7.0, 1.0, 2.0, 5.0])
LABELS = pl.Series([False, True, True, True, False, True])


def test_precision_at_k_a_day_counted_by_hand() -> None:
    one, two = (precision_a_day(SCORES, LABELS, DAYS, k) for k in (1, 2))
    assert (one.days, one.looked_at, one.found, one.positives) == (3, 3, 1, 4)
    assert one.precision == pytest.approx((0 + 0 + 1) / 3)
    assert (two.looked_at, two.found) == (5, 3)
    assert two.precision == pytest.approx((1 / 2 + 1 / 2 + 1 / 2) / 3)  # the last day has but one event
    assert two.chance == pytest.approx((2 / 3 + 1 / 2 + 1 / 2) / 3)


def test_what_is_unknown_or_unscored_is_not_looked_at() -> None:
    found = precision_a_day(
        pl.Series([9.0, None, float("nan"), 1.0]), pl.Series([None, True, True, True]), np.zeros(4), 1
    )
    assert (found.days, found.found, found.positives) == (1, 1, 1)
    nothing = precision_a_day(pl.Series([None], dtype=pl.Float64), pl.Series([True]), np.zeros(1), 5)
    assert (nothing.days, nothing.found) == (0, 0)
    assert math.isnan(nothing.precision)


def test_entities_are_looked_at_once_a_day_and_if_wanted_once_at_all() -> None:
    cards = pl.Series(["a", "b", "a", "b", "c", "b"])
    found = precision_a_day(SCORES, LABELS, DAYS, 1, entities=cards)
    assert (found.looked_at, found.found, found.positives) == (3, 2, 4)  # a is true by its second event
    found = precision_a_day(SCORES, LABELS, DAYS, 2, entities=cards, once=True)
    assert (found.looked_at, found.found, found.positives) == (3, 2, 2)  # both found on the first day, then c alone
    later_first = pl.Series([9.0, 9.0, 1.0]), pl.Series([True, True, False]), np.array([5.0, 0.0, 0.0]) * 86_400
    found = precision_a_day(*later_first, 1, entities=pl.Series(["a", "a", "b"]), once=True)
    assert (found.looked_at, found.found) == (1, 1)  # a on the first day, whatever the order of the rows


def test_a_perfect_score_finds_what_there_is_and_a_constant_one_what_chance_finds() -> None:
    draws = np.random.default_rng(0)
    seconds = draws.uniform(0, 200 * 86_400, 20_000)
    label = pl.Series(draws.random(20_000) < 0.3)
    perfect = precision_a_day(label.cast(pl.Float64), label, seconds, 10)
    assert (perfect.precision, perfect.found) == (1.0, 2000)
    constant = precision_a_day(pl.Series(np.zeros(20_000)), label, seconds, 10)
    assert constant.precision == pytest.approx(constant.chance, abs=0.03)


def test_a_k_or_an_order_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"k \(=0\) must be at least 1"):
        precision_a_day(SCORES, LABELS, DAYS, 0)
    with pytest.raises(ValueError, match=r"once \(=True\) speaks of entities"):
        precision_a_day(SCORES, LABELS, DAYS, 1, once=True)


def test_alerts_a_day_count_the_quiet_days_too() -> None:
    found = alerts_a_day(LABELS, DAYS)
    assert found["day"].to_list() == [0, 1, 2, 3]
    assert found["events"].to_list() == [3, 2, 0, 1]
    assert found["alerts"].to_list() == [2, 1, 0, 1]
    assert alerts_a_day(pl.Series([], dtype=pl.Boolean), np.array([])).height == 0
