"""Calibration: counted by hand, right where the model is right, and wrong where it is wrong."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
import torch
from scipy import stats

from gapcell.detect import Detection, Detector, EventTable
from gapcell.detect.calibration import (
    binomial_interval,
    calibration_of,
    distances,
    exceedances,
    kolmogorov,
    transforms,
)
from gapcell.detect.features import Scaling
from gapcell.detect.heads import Head, Targets

EVENTS = 20_000
LUCKY = 1.95 / math.sqrt(EVENTS)  # a uniform sample is further out once in a thousand times


def inverse_softplus(value: float) -> float:
    return math.log(math.expm1(value))


def test_seldom_events_are_counted() -> None:
    p = np.array([0.5, 0.1, 0.05, 0.009, 0.0002, math.nan])
    found = exceedances(-np.log(p))
    assert [(each.level, each.events, each.came) for each in found] == [(0.1, 5, 4), (0.01, 5, 2), (0.001, 5, 1)]
    assert found[0].share == 0.8
    assert not found[0].agrees
    assert exceedances(np.array([math.nan]))[0].agrees
    assert math.isnan(exceedances(np.array([]))[0].share)


@pytest.mark.parametrize(("came", "events"), [(0, 20), (1, 20), (10, 20), (20, 20), (3, 5000)])
def test_the_interval_is_that_of_an_exact_binomial_test(came: int, events: int) -> None:
    exact = stats.binomtest(came, events).proportion_ci(0.95, method="exact")
    assert binomial_interval(came, events) == pytest.approx((exact.low, exact.high), abs=1e-12)


def test_an_interval_of_nothing_excludes_nothing() -> None:
    assert binomial_interval(0, 0) == (0.0, 1.0)


def test_the_distance_is_scipys() -> None:
    u = np.random.default_rng(0).beta(2, 1, 500)
    assert kolmogorov(np.append(u, math.nan)) == pytest.approx(stats.kstest(u, "uniform").statistic, abs=1e-12)
    assert math.isnan(kolmogorov(np.array([math.nan])))
    assert kolmogorov(np.array([1.0])) == 1.0


def rounded(z: np.ndarray, step: float) -> Targets:
    """Values as a table has them, with the half steps beside them."""
    scaling = Scaling(logarithmic=False, unit=1e9, centre=0.0, spread=1e-9, step=step)  # the identity, nearly
    value = np.round(z / step) * step
    ends = (scaling.forward(value + shift * step) for shift in (0.0, -0.5, 0.5))
    return Targets(*(torch.from_numpy(end)[:, None] for end in ends))


STUDENT = torch.tensor([1.0, inverse_softplus(1.95), inverse_softplus(3.0)], dtype=torch.float64)  # 1, 2 and 5
MIXTURE = torch.tensor([0.0, 0.0, -2.0, 2.0, inverse_softplus(0.95), inverse_softplus(0.95)], dtype=torch.float64)


def drawn(family: str) -> np.ndarray:
    """A sample of what these parameters predict."""
    draws = np.random.default_rng(5)
    if family == "student-t":
        return 1.0 + 2.0 * draws.standard_t(5, EVENTS)
    return np.where(draws.random(EVENTS) < 0.5, -2.0, 2.0) + draws.normal(size=EVENTS)


@pytest.mark.parametrize("step", [1e-6, 1.0])
@pytest.mark.parametrize(("family", "parameters"), [("student-t", STUDENT), ("mixture", MIXTURE)])
def test_a_right_prediction_of_numbers_is_uniform_however_they_are_rounded(
    family: str, parameters: torch.Tensor, step: float
) -> None:
    head = Head(0, family, 0, len(parameters))  # pyrefly: ignore[bad-argument-type]  # one of the families
    targets = rounded(drawn(family), step)
    draws = np.random.default_rng(1)
    assert kolmogorov(transforms(head, parameters, targets, draws)) < LUCKY
    wider = parameters.clone()
    wider[1 if family == "student-t" else slice(4, 6)] += 1.0
    assert kolmogorov(transforms(head, wider, targets, draws)) > 3 * LUCKY


def test_without_the_draw_values_that_repeat_would_look_wrong() -> None:
    head, targets = Head(0, "mixture", 0, 6), rounded(drawn("mixture"), 1.0)

    class Middle:
        def random(self, shape: tuple[int, ...]) -> np.ndarray:
            return np.full(shape, 0.5)

    middle = transforms(head, MIXTURE, targets, Middle())  # pyrefly: ignore[bad-argument-type]  # no generator, meant
    assert kolmogorov(middle) > 3 * LUCKY


@pytest.mark.parametrize("family", ["categorical", "bernoulli"])
def test_a_right_prediction_of_categories_is_uniform(family: str) -> None:
    draws = np.random.default_rng(2)
    if family == "categorical":
        p = np.array([0.6, 0.05, 0.25, 0.1])
        logits = torch.log(torch.from_numpy(p))
        wrong = torch.log(torch.from_numpy(np.array([0.4, 0.3, 0.2, 0.1])))
    else:
        p = np.array([0.8, 0.2])
        logits, wrong = (torch.tensor([math.log(q / (1 - q))], dtype=torch.float64) for q in (0.2, 0.45))
    came = torch.from_numpy(draws.choice(len(p), EVENTS, p=p).astype(float))[:, None]
    targets = Targets(came, came, came)
    head = Head(0, family, 0, len(logits))  # pyrefly: ignore[bad-argument-type]  # one of the families
    assert kolmogorov(transforms(head, logits, targets, draws)) < LUCKY
    assert kolmogorov(transforms(head, wrong, targets, draws)) > 3 * LUCKY
    rare = transforms(head, logits, targets, draws)[came[:, 0].numpy() == np.argmin(p)]
    assert rare.max() <= p.min() + 1e-12


def test_what_is_missing_is_not_judged() -> None:
    value = torch.tensor([[math.nan], [0.0]], dtype=torch.float64)
    for head, parameters in ((Head(0, "student-t", 0, 3), STUDENT), (Head(0, "bernoulli", 0, 1), STUDENT[:1])):
        found = transforms(head, parameters, Targets(value, value, value), np.random.default_rng(0))
        assert np.isnan(found).tolist() == [True, False]


def test_a_detection_is_held_against_what_came(detection: Detection) -> None:
    found = calibration_of(detection.frame, detection.features, "held-out")
    assert found["feature"].unique(maintain_order=True).to_list() == ["amount", "channel", "gift", "time_since_last"]
    assert found["judge"].unique(maintain_order=True).to_list() == ["own", "population"]
    held_out = detection.frame.filter(part="held-out")
    for row in found.iter_rows(named=True):
        surprises = held_out[f"score_{row['judge']}_{row['feature']}"].drop_nulls()
        assert row["events"] == len(surprises)
        assert row["came"] == int((surprises >= -math.log(row["level"])).sum())
    nothing = detection.frame.with_columns(pl.lit(None, pl.Float64).alias("score_own_amount"))
    assert calibration_of(nothing, detection.features, "test").filter(feature="amount", judge="own").height == 0


def test_a_detection_says_how_far_its_predictions_are_from_what_came(detection: Detection) -> None:
    found = detection.distances
    assert found["feature"].to_list() == [0, 1, 2, 3]
    test = detection.frame.filter(part="test")
    assert found["events"].to_list() == [
        test[f"score_own_{feature.name}"].is_not_null().sum() for feature in detection.features
    ]
    assert found.select(pl.col("own", "population").is_between(0, 1).all()).row(0) == (True, True)


def test_predictions_are_near_the_part_they_were_fitted_on(
    detector: Detector, detection: Detection, table: EventTable
) -> None:
    training = (detection.frame["part"] == "train").to_numpy()[table.order]
    found = distances(detector.predictor, detector.reads(table)[0], training, 0)
    assert found["events"][2] == training.sum()
    assert found["own"].max() < 0.2
    assert found["population"].max() < 0.2
    assert (
        detection.distances["own"][0] > found["own"][0]
    )  # the last events are those of the slow customers, who are few


def test_distances_without_a_judged_event_are_unknown(detector: Detector, table: EventTable) -> None:
    nobody = np.zeros(len(table.codes), dtype=bool)
    found = distances(detector.predictor, detector.reads(table)[0], nobody, 0)
    assert found["events"].sum() == 0
    assert found["own"].null_count() == found.height
