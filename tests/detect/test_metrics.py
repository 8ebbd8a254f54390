"""Measures of scores against labels, by hand-counted cases."""

from __future__ import annotations

import math

import polars as pl
import pytest

from gapcell.detect.metrics import evaluate


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
