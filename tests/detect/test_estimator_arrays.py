"""The estimator on padded arrays with masks: scores in their shape, and none for what is masked."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.base import clone

from gapcell import masks
from gapcell.detect import SequenceDetector, TableError

from .conftest import FAST, TOLERANCE


def arrays(series: int = 40, events: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values (N, S, 2), an element mask with whole events masked, and lengths; NaN where nothing is observed."""
    draws = np.random.default_rng(seed)
    lengths = draws.integers(events // 2, events + 1, series)
    x = draws.normal(size=(series, events, 2)) + draws.normal(0, 3, (series, 1, 2))
    mask = (draws.random(x.shape) < 0.85) & (draws.random((series, events, 1)) < 0.85)
    mask &= masks.from_lengths(lengths, events)[:, :, None]
    return np.where(mask, x, np.nan), mask, lengths


@pytest.fixture(scope="module")
def on_arrays() -> SequenceDetector:
    x, mask, lengths = arrays()
    return SequenceDetector(**FAST).fit(x, mask=mask, lengths=lengths)


def close(one: np.ndarray, other: np.ndarray) -> None:
    np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE)  # NaN only where the other is NaN


def test_what_is_learnt_has_no_names(on_arrays: SequenceDetector) -> None:
    assert on_arrays.n_features_in_ == 2
    assert on_arrays.features_ == ("x0", "x1", "time_since_last")
    assert not hasattr(on_arrays, "feature_names_in_")


def test_fitting_and_predicting_at_once_takes_masks_to_both() -> None:
    x, mask, lengths = arrays(20, 12)
    one = SequenceDetector(**FAST | {"epochs": 1})
    found = one.fit_predict(x, mask=mask, lengths=lengths)
    np.testing.assert_array_equal(found, one.predict(x, mask=mask, lengths=lengths))


def test_arrays_get_scores_in_their_shape(on_arrays: SequenceDetector) -> None:
    x, mask, lengths = arrays()
    found = on_arrays.score(x, mask=mask, lengths=lengths)
    event = mask.any(2)
    assert found.score.shape == found.alert.shape == found.since_last.shape == event.shape
    np.testing.assert_array_equal(np.isnan(found.score), ~event)
    np.testing.assert_array_equal(np.isnan(found.features), ~mask)
    first = event & (event.cumsum(1) == 1)
    np.testing.assert_array_equal(np.isnan(found.since_last), ~event | first)
    assert not found.alert[~event].any()
    assert found.not_scored == {
        "x0 is missing": int((event & ~mask[:, :, 0]).sum()),
        "x1 is missing": int((event & ~mask[:, :, 1]).sum()),
        "time_since_last: no earlier event to measure the time from": int(first.sum()),
    }
    given = {"mask": mask, "lengths": lengths}
    np.testing.assert_array_equal(on_arrays.score_samples(x, **given), -found.score)
    np.testing.assert_array_equal(on_arrays.predict(x, **given), np.where(found.alert, -1, 1))


@pytest.mark.parametrize("under", [np.nan, 1e30, -np.inf, 0.0])
def test_what_is_under_the_mask_changes_no_score(on_arrays: SequenceDetector, under: float) -> None:
    x, mask, lengths = arrays()
    wanted = on_arrays.score(x, mask=mask, lengths=lengths)
    found = on_arrays.score(np.where(mask, x, under), mask=mask, lengths=lengths)
    np.testing.assert_array_equal(found.score, wanted.score)
    np.testing.assert_array_equal(found.features, wanted.features)


def test_a_fit_does_not_see_what_is_under_the_mask(on_arrays: SequenceDetector) -> None:
    x, mask, lengths = arrays()
    other = clone(on_arrays).fit(np.where(mask, x, 1e30), mask=mask, lengths=lengths)
    assert other.threshold_ == on_arrays.threshold_


def test_padding_on_the_right_and_rows_beside_change_no_score(on_arrays: SequenceDetector) -> None:
    x, mask, lengths = arrays()
    wanted = on_arrays.score(x, mask=mask, lengths=lengths).score
    longer = np.concatenate([x, np.full_like(x, 7.0)], 1)
    seen = np.concatenate([mask, np.ones_like(mask)], 1)
    found = on_arrays.score(longer, mask=seen, lengths=lengths)
    close(found.score[:, : x.shape[1]], wanted)
    assert np.isnan(found.score[:, x.shape[1] :]).all()
    assert not found.alert[:, x.shape[1] :].any()
    unmasked = on_arrays.score(np.nan_to_num(longer)).score[:, : x.shape[1]]
    assert np.nanmax(np.abs(unmasked - wanted)) > 0.01  # as one that took no mask would
    close(on_arrays.score(x[::-1][:9], mask=mask[::-1][:9], lengths=lengths[::-1][:9]).score, wanted[::-1][:9])


def test_a_wholly_masked_event_is_a_deleted_event(on_arrays: SequenceDetector) -> None:
    x, mask, lengths = arrays()
    times = np.arange(x.shape[1]) + np.zeros((len(x), 1))
    gone = mask.copy()
    gone[:, 5] = False
    found = on_arrays.score(x, mask=gone, lengths=lengths, times=times)
    kept = [step for step in range(x.shape[1]) if step != 5]
    start_stop = np.stack([np.zeros_like(lengths), lengths - (lengths > 5)], 1)
    without = on_arrays.score(x[:, kept], mask=mask[:, kept], lengths=start_stop, times=times[:, kept])
    close(found.score[:, kept], without.score)


def test_a_batch_with_nothing_observed_has_no_scores_and_no_alerts(on_arrays: SequenceDetector) -> None:
    found = on_arrays.score(np.ones((2, 5, 2)), mask=np.zeros((2, 5)))
    assert np.isnan(found.score).all()
    assert not found.alert.any()
    assert found.features.shape == (2, 5, 2)
    with pytest.raises(TableError, match=r"X of shape \(2, 5, 2\) holds no observed event"):
        clone(on_arrays).fit(np.ones((2, 5, 2)), mask=np.zeros((2, 5)))


def test_arrays_are_the_table_that_they_stand_for(on_arrays: SequenceDetector) -> None:
    x, mask, lengths = arrays()
    rows, steps = np.nonzero(mask.any(2))
    frame = pl.DataFrame({"row": rows, "step": steps.astype(float), "x0": x[rows, steps, 0], "x1": x[rows, steps, 1]})
    table = on_arrays.detector_.read(frame)
    close(on_arrays.score(x, mask=mask, lengths=lengths).score[rows, steps], -on_arrays.score_samples(table))
    assert str(on_arrays.explain(x, (int(rows[9]), int(steps[9])), mask=mask, lengths=lengths)) == (
        str(on_arrays.explain(table, 9))
    )


def test_tensors_and_dates_are_arrays_too(on_arrays: SequenceDetector) -> None:
    x, mask, lengths = arrays()
    wanted = on_arrays.score(x, mask=mask, lengths=lengths)
    tensors = [torch.from_numpy(array) for array in (x, mask, lengths)]
    close(on_arrays.score(tensors[0], mask=tensors[1], lengths=tensors[2]).score, wanted.score)
    days = np.datetime64("2024-01-01") + np.arange(x.shape[1]) + np.zeros((len(x), 1), dtype=int)
    dated = SequenceDetector(values=("heat", "load"), **FAST | {"epochs": 1})
    dated.fit(x, mask=mask, lengths=lengths, times=days)
    assert dated.features_ == ("heat", "load", "time_since_last")
    with pytest.raises(TableError, match=r"time column 'step' holds numbers of seconds where .* dates"):
        dated.score(x, mask=mask)


def test_labels_of_arrays_have_their_shape(on_arrays: SequenceDetector) -> None:
    x, mask, lengths = arrays()
    labels = np.where(np.isnan(x[:, :, 0]), np.nan, 0.0)
    found = on_arrays.score(x, labels, mask=mask, lengths=lengths)
    close(found.score, on_arrays.score(x, mask=mask, lengths=lengths).score)
    with pytest.raises(ValueError, match=r"`y` has shape \(40,\), but X has 40 series of 24 events: expected"):
        on_arrays.score(x, labels[:, 0], mask=mask)


@pytest.mark.parametrize(
    ("x", "given", "message"),
    [
        (np.ones((4, 3)), {}, r"`X` has shape \(4, 3\) and dtype float64: expected numbers \(N, S, C\)"),
        (np.ones((4, 3, 2)), {"mask": np.ones((4, 2))}, r"`mask` has shape \(4, 2\), but the input has shape"),
        (np.ones((4, 3, 2)), {"lengths": [3, 3]}, r"`lengths` has shape \(2,\), but the input has 4 rows"),
        (np.ones((4, 3, 2)), {"lengths": [3, 3, 3, 9]}, "`lengths` says steps 0 to 9 for row 3"),
        (np.ones((4, 3, 2)), {"times": np.ones(3)}, r"`times` has shape \(3,\), but X has 4 series of 3 events"),
        (np.full((4, 3, 2), np.nan), {}, r"X\[0, 0, 0\] is nan, .* observed: mask=gapcell.masks.from_nan\(X\)"),
        (np.full((4, 3, 2), np.inf), {}, r"X\[0, 0, 0\] is inf, .* observed: correct or mask it"),
        (np.ones((4, 3, 3)), {}, r"names 2 channels, but X has 3"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    on_arrays: SequenceDetector, x: np.ndarray, given: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        on_arrays.score(x, **given)


def test_tables_and_arrays_are_not_mixed(on_arrays: SequenceDetector, frame: pl.DataFrame) -> None:
    with pytest.raises(TableError, match="the table has no entity column 'row'"):
        on_arrays.score(frame)
    with pytest.raises(TableError, match="a channel cannot be named 'step': the name is taken"):
        SequenceDetector(values=("step",)).fit(np.ones((4, 3, 1)))
    with pytest.raises(IndexError, match=r"no event of the arrays is observed at \(0, 9\)"):
        on_arrays.explain(np.ones((2, 3, 2)), (0, 9))
