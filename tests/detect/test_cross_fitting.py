"""What is learnt on top of a network's odds of labels reads odds of networks that did not learn those labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from gapcell.detect import read_table
from gapcell.detect.cross_fitting import CrossFitted
from gapcell.detect.fitting import cut_time, material_of
from gapcell.detect.material import Material
from gapcell.detect.results import silent
from gapcell.detect.scoring import Read, label_odds
from gapcell.detect.selection import FittedStream, fit_stream
from gapcell.detect.streams import streams_of

from .conftest import QUICK, purchases

SUPERVISED = replace(QUICK, encoder="lstm", epochs=2, supervised=True)


def material(labels: np.ndarray) -> Material:
    """Purchases of forty customers with these labels (rows,)."""
    frame = purchases(40).with_columns(pl.Series("fraud", labels))
    table = read_table(frame, label="fraud")
    known = np.ones(len(labels), dtype=bool)
    return material_of(table, streams_of(table, None)[0], cut_time(table, SUPERVISED), SUPERVISED, known)


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.random.default_rng(3).random(purchases(40).height) < 0.2


@pytest.fixture(scope="module")
def fitted(labels: np.ndarray) -> FittedStream:
    return fit_stream(material(labels), SUPERVISED, silent)


def read_of(labels: np.ndarray) -> Read:
    its = material(labels)
    return Read(its.stream, its.sequences, its.targets, its.starts[1:], ~its.stream.report)


def changed_by(of: CrossFitted, labels: np.ndarray, fold: int) -> tuple[np.ndarray, FittedStream]:
    """The rows of a fold, and what is fitted where all their labels are others."""
    stream = material(labels).stream
    series = np.repeat(np.arange(len(stream.starts) - 1), np.diff(stream.starts))
    rows = stream.row[of.fold[series] == fold]
    other = labels.copy()
    other[rows] ^= True
    return rows, fit_stream(material(other), SUPERVISED, silent)


def test_odds_of_an_event_do_not_know_its_entitys_labels(fitted: FittedStream, labels: np.ndarray) -> None:
    assert fitted.cross_fitted is not None
    rows, again = changed_by(fitted.cross_fitted, labels, 0)
    assert again.cross_fitted is not None
    read, others = read_of(labels), np.setdiff1d(np.arange(len(labels)), rows)
    before, after = (found.cross_fitted.odds(read, len(labels)) for found in (fitted, again))
    np.testing.assert_array_equal(before[rows], after[rows])
    assert np.isfinite(before).all()
    assert not np.isclose(before[others], after[others]).any()
    own = [label_odds(found.predictor.network, read, len(labels))[rows] for found in (fitted, again)]
    assert not np.isclose(*own).any()  # a network that learnt them gives itself away


def test_an_interrupted_training_leaves_no_odds_where_it_has_none(fitted: FittedStream, labels: np.ndarray) -> None:
    networks = fitted.cross_fitted.networks
    first = CrossFitted.fit(material(labels), 0, lambda _, number: networks[0] if number == 1 else None)
    odds, whole = (found.odds(read_of(labels), len(labels)) for found in (first, fitted.cross_fitted))
    there = ~np.isnan(odds)
    assert 0.3 < there.mean() < 0.7
    np.testing.assert_array_equal(odds[there], whole[there])


def test_folds_are_of_one_size_and_drawn(labels: np.ndarray) -> None:
    one, two = (CrossFitted.fit(material(labels), seed, lambda *_: None).fold for seed in (0, 1))
    assert np.bincount(one).tolist() == [20, 20]
    assert not np.array_equal(one, two)


def test_without_labels_nothing_is_cross_fitted(labels: np.ndarray) -> None:
    assert fit_stream(material(labels), replace(SUPERVISED, supervised=False, epochs=1), silent).cross_fitted is None
