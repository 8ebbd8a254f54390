"""The estimator: scikit-learn's contract, the same scores whatever a table comes as, and none for what is missing."""

from __future__ import annotations

import inspect
import json
import pickle
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal
from sklearn.base import clone, is_outlier_detector
from sklearn.exceptions import NotFittedError
from sklearn.utils import get_tags

from gapcell.detect import Detector, FitOptions, ModelError, SequenceDetector, TableError, read_table
from gapcell.detect.columns import Column
from gapcell.detect.estimator import PARAMETERS, ROLES

from .conftest import FAST, QUICK, TOLERANCE, purchases

FEATURES = ("amount", "channel", "gift", "time_since_last")


@pytest.fixture(scope="module")
def fitted(frame: pl.DataFrame) -> SequenceDetector:
    return SequenceDetector("customer", **asdict(QUICK)).fit(frame)


@pytest.fixture(scope="module")
def scores(fitted: SequenceDetector, frame: pl.DataFrame) -> pl.DataFrame:
    return fitted.score(frame)


# scikit-learn's contract ----------------------------------------------------------------------------------------------


def test_parameters_are_the_roles_and_the_options_with_their_defaults() -> None:
    parameters = inspect.signature(SequenceDetector.__init__).parameters
    assert set(parameters) - {"self"} == {*ROLES, *FitOptions.names()}
    assert {name: parameters[name].default for name in FitOptions.names()} == asdict(FitOptions())
    kinds = {name: parameter.kind for name, parameter in parameters.items() if name not in ("self", "entity")}
    assert set(kinds.values()) == {inspect.Parameter.KEYWORD_ONLY}


def test_parameters_are_stored_as_given_and_cloned() -> None:
    values, upper = ["amount", Column("gift", "boolean")], ["amount"]
    detector = SequenceDetector("customer", values=values, upper=upper, budget=np.float64(0.5), window=-3)
    assert detector.values is values
    assert detector.upper is upper
    copy = clone(detector)
    assert copy.get_params() == detector.get_params()
    assert copy.set_params(window=7).window == 7
    assert repr(detector).startswith("SequenceDetector(")
    with pytest.raises(ValueError, match=r"window \(=-3\) must be a whole number from 1 to 256"):
        detector.fit(purchases(customers=3, events=5))  # not before


def test_a_fitted_one_can_be_pickled(fitted: SequenceDetector, frame: pl.DataFrame) -> None:
    copy = pickle.loads(pickle.dumps(fitted))  # noqa: S301  # our own bytes
    np.testing.assert_array_equal(copy.score_samples(frame), fitted.score_samples(frame))


def test_tags_say_what_it_is() -> None:
    tags = get_tags(SequenceDetector())
    assert is_outlier_detector(SequenceDetector())
    assert tags.input_tags.allow_nan
    assert tags.input_tags.three_d_array
    assert not tags.input_tags.two_d_array
    assert not tags.target_tags.required


@pytest.mark.parametrize("method", ["score", "score_samples", "decision_function", "predict", "save"])
def test_nothing_works_before_the_fit(method: str, frame: pl.DataFrame) -> None:
    with pytest.raises(NotFittedError, match="This SequenceDetector instance is not fitted yet"):
        getattr(SequenceDetector(), method)(frame)


def test_what_is_learnt_ends_in_an_underscore(fitted: SequenceDetector) -> None:
    assert fitted.threshold_ == fitted.detector_.threshold
    assert fitted.features_ == FEATURES
    assert fitted.encoder_ == "convlstm"
    assert fitted.n_features_in_ == 3
    assert fitted.feature_names_in_.tolist() == ["amount", "channel", "gift"]
    learnt = {name for name in vars(fitted) if name not in fitted.get_params()}
    assert all(name.endswith("_") for name in learnt)


def test_scores_are_those_of_the_detector(fitted: SequenceDetector, frame: pl.DataFrame, scores: pl.DataFrame) -> None:
    detection = fitted.detector_.score(read_table(frame)).frame
    assert scores.columns == ["entity", "time", "score", "alert", *(f"score_{name}" for name in FEATURES), "not_scored"]
    assert_frame_equal(scores.select("entity", "time", "score", "alert"), detection.select(scores.columns[:4]))
    parts = detection.select("score_own_amount", "score_population_amount").to_numpy()
    np.testing.assert_array_equal(scores["score_amount"].fill_null(float("nan")).to_numpy(), parts.max(1))


def test_samples_decisions_and_predictions_agree(
    fitted: SequenceDetector, frame: pl.DataFrame, scores: pl.DataFrame
) -> None:
    score = scores["score"].fill_null(float("nan")).to_numpy()
    np.testing.assert_array_equal(fitted.score_samples(frame), -score)
    decision, predicted = fitted.decision_function(frame), fitted.predict(frame)
    np.testing.assert_array_equal(decision, fitted.threshold_ - score)
    np.testing.assert_array_equal(predicted == -1, scores["alert"].to_numpy())
    np.testing.assert_array_equal(predicted == -1, decision < 0)
    assert set(predicted) == {-1, 1}


def test_probabilities_are_there_only_when_supervised(fitted: SequenceDetector, frame: pl.DataFrame) -> None:
    assert not hasattr(fitted, "predict_proba")
    supervised = clone(fitted)
    supervised.supervised = True
    supervised.detector_, supervised.threshold_ = fitted.detector_, fitted.threshold_
    probabilities = supervised.predict_proba(frame)
    np.testing.assert_allclose(probabilities[:, 0], np.exp(fitted.score_samples(frame)), rtol=1e-9)
    np.testing.assert_allclose(probabilities.sum(1), 1.0)


def test_a_fit_says_how_far_it_is_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    SequenceDetector("customer", verbose=True, **FAST | {"epochs": 1}).fit(purchases(customers=10, events=12))
    assert "network: 1 of 1, convlstm by customer: held-out negative log-likelihood" in capsys.readouterr().out


# Tables ---------------------------------------------------------------------------------------------------------------


def test_every_kind_of_table_gets_the_same_scores_in_its_own_kind(
    fitted: SequenceDetector, frame: pl.DataFrame, scores: pl.DataFrame, tmp_path: Path
) -> None:
    frame.write_csv(tmp_path / "events.csv")
    assert_frame_equal(fitted.score(tmp_path / "events.csv"), scores)
    assert_frame_equal(fitted.score(str(tmp_path / "events.csv")), scores)
    assert_frame_equal(fitted.score(read_table(frame)), scores)
    assert_frame_equal(fitted.score(frame.lazy()), scores)
    arrow = fitted.score(frame.to_arrow())
    assert isinstance(arrow, pa.Table)
    assert_frame_equal(pl.DataFrame(pl.from_arrow(arrow)), scores)
    as_pandas = frame.to_pandas().set_index(np.arange(frame.height)[::-1])
    found = fitted.score(as_pandas)
    assert isinstance(found, pd.DataFrame)
    pd.testing.assert_index_equal(found.index, as_pandas.index)
    assert_frame_equal(pl.from_pandas(found), scores)
    np.testing.assert_array_equal(fitted.predict(as_pandas) == -1, scores["alert"].to_numpy())


def test_a_fit_is_the_same_from_every_kind_of_table(
    fitted: SequenceDetector, frame: pl.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    assert clone(fitted).fit(frame.to_pandas()).threshold_ == fitted.threshold_
    assert capsys.readouterr().out == ""  # nor does it say anything unasked


def test_the_order_of_the_rows_changes_no_score(
    fitted: SequenceDetector, frame: pl.DataFrame, scores: pl.DataFrame
) -> None:
    order = np.random.default_rng(1).permutation(frame.height)
    assert_frame_equal(fitted.score(frame[order]), scores[order], abs_tol=TOLERANCE)


def test_neither_other_entities_nor_chunks_of_entities_change_a_score(
    fitted: SequenceDetector, frame: pl.DataFrame, scores: pl.DataFrame
) -> None:
    number = frame["customer"].str.slice(1).cast(pl.Int64)
    for chunk in (number < 1, number < 7, number >= 7):
        assert_frame_equal(fitted.score(frame.filter(chunk)), scores.filter(chunk), abs_tol=TOLERANCE)


def test_later_events_change_no_score(fitted: SequenceDetector, frame: pl.DataFrame, scores: pl.DataFrame) -> None:
    early = frame["time"] < frame["time"].median()
    assert_frame_equal(fitted.score(frame.filter(early)), scores.filter(early), abs_tol=TOLERANCE)


def test_what_is_missing_is_not_scored_and_says_so(
    fitted: SequenceDetector, frame: pl.DataFrame, scores: pl.DataFrame
) -> None:
    for name in ("amount", "channel"):
        missing = frame[name].is_null()
        assert scores[f"score_{name}"].is_null().equals(missing)
        assert scores["not_scored"].str.contains(f"{name} is missing").fill_null(value=False).equals(missing)
    first = scores["score_time_since_last"].is_null()
    assert first.sum() == frame["customer"].n_unique()
    why = scores["not_scored"].filter(first)
    assert why.str.ends_with("time_since_last: no earlier event to measure the time from").all()
    nothing = frame[3].with_columns(
        amount=pl.lit(None, pl.Float64), channel=pl.lit(None, pl.String), gift=pl.lit(None, pl.Boolean)
    )
    found = fitted.score(nothing)
    assert found["score"].to_list() == [None]
    assert found["alert"].to_list() == [False]
    assert found["not_scored"][0].count(",") == 3
    assert fitted.predict(nothing).tolist() == [1]
    assert np.isnan(fitted.decision_function(nothing)).all()


def test_an_event_is_explained(fitted: SequenceDetector, frame: pl.DataFrame) -> None:
    detection = fitted.detector_.score(read_table(frame)).frame
    assert str(fitted.explain(frame, 7)) == detection["reason"][7]
    with pytest.raises(IndexError, match="row 1200 is not in the table: it has the rows 0 to 1199"):
        fitted.explain(frame, 1200)


def test_labels_given_beside_a_table_take_the_place_of_its_label_column(frame: pl.DataFrame) -> None:
    labels = np.zeros(frame.height)
    labels[5] = np.nan
    once = FAST | {"epochs": 1}
    marked = frame.with_columns(fraud=pl.lit(value=True))
    one = SequenceDetector(label="fraud", **once).fit(marked, labels)
    assert one.features_ == FEATURES
    assert one.feature_names_in_.tolist() == ["amount", "channel", "gift"]
    assert one.score(frame).equals(one.score(marked, labels))  # the label column need not be there
    with pytest.raises(TableError, match=r"label column 'fraud', row 1 holds 2.*, where True/False or 0/1"):
        one.score(marked, labels + 2)
    with pytest.raises(TableError, match=r"y has shape \(3,\), but the table has 1200 rows"):
        one.fit(frame, [0, 1, 0])


def test_arrays_and_what_goes_with_them_are_refused(fitted: SequenceDetector, frame: pl.DataFrame) -> None:
    with pytest.raises(ValueError, match="X is an array, but the detector was fitted on a table with entity column"):
        fitted.score(np.ones((4, 3, 3)))
    with pytest.raises(ValueError, match="`mask` goes with an array X"):
        fitted.score(frame, mask=np.ones(3))


def test_a_saved_estimator_gives_the_same_scores(
    fitted: SequenceDetector, frame: pl.DataFrame, scores: pl.DataFrame, tmp_path: Path
) -> None:
    named = clone(fitted).set_params(label="fraud", values=[Column("gift", "boolean"), "amount", "channel"])
    named._take(fitted.detector_)
    named.save(tmp_path / "model")
    loaded = SequenceDetector.load(tmp_path / "model")
    assert loaded.get_params() == named.get_params()
    assert vars(loaded).keys() == vars(named).keys()
    assert_frame_equal(loaded.score(frame), scores, abs_tol=TOLERANCE)


def test_a_saved_detector_is_loaded_too(fitted: SequenceDetector, frame: pl.DataFrame, tmp_path: Path) -> None:
    fitted.detector_.save(tmp_path)
    loaded = SequenceDetector.load(tmp_path)
    assert (loaded.entity, loaded.time) == ("customer", "time")
    np.testing.assert_allclose(loaded.score_samples(frame), fitted.score_samples(frame), atol=TOLERANCE)
    assert Detector.load(tmp_path).threshold == loaded.threshold_


@pytest.mark.parametrize("contents", ["", "[]", "{}", '{"values": null}', '{"values": [{"name": 1, "sort": 2}]}'])
def test_a_damaged_file_is_refused(fitted: SequenceDetector, tmp_path: Path, contents: str) -> None:
    fitted.save(tmp_path)
    assert json.loads((tmp_path / PARAMETERS).read_text())["entity"] == "customer"
    (tmp_path / PARAMETERS).write_text(contents)
    with pytest.raises(ModelError, match=rf"{PARAMETERS} is damaged"):
        SequenceDetector.load(tmp_path)


def test_a_feature_that_is_not_to_be_scored_has_no_column_and_no_say(frame: pl.DataFrame) -> None:
    quick = {**asdict(QUICK), "epochs": 1, "unscored": ("gift", "time_since_last")}
    found = SequenceDetector("customer", **quick).fit(frame).score(frame)
    assert "score_gift" not in found.columns
    assert not found["not_scored"].str.contains("gift|time_since_last").any()


def test_weights_say_which_labels_are_learnt(frame: pl.DataFrame) -> None:
    labelled = frame.with_columns(bad=pl.col("amount") > 300)
    quick = {**asdict(QUICK), "epochs": 1, "supervised": True}
    learner = SequenceDetector("customer", label="bad", **quick)
    probability = learner.fit(labelled, sample_weight=np.ones(frame.height)).predict_proba(labelled)
    assert probability.shape == (frame.height, 2)
    np.testing.assert_allclose(probability.sum(1), 1)
    with pytest.raises(TableError, match="column 'bad' cannot be learnt from: 0 of the 0"):
        learner.fit(labelled, sample_weight=np.zeros(frame.height))
    with pytest.raises(ValueError, match=r"sample_weight of shape \(3,\) must have shape \(1200,\) and hold 0 and 1"):
        learner.fit(labelled, sample_weight=[1, 1, 1])
