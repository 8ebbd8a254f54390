"""Indicator channels and elapsed time, for every kind of array, against loops over single values."""

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gapcell import arrays, masks
from mask_algebra.kinds import drawn, every_kind, make, numbers, refused, run

SHAPES = [(2, 3), (2, 3, 4), (2, 3, 4, 2)]
X = numbers(2, 3, 4, 2)


@every_kind
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channel_axis", [-1, 2])
def test_an_indicator_says_what_is_observed(kind, shape, channel_axis):
    mask = np.random.default_rng(1).random(shape) < 0.5
    wide = np.broadcast_to(mask.reshape(*shape, *(1,) * (4 - len(shape))), X.shape)
    want = np.concatenate([np.where(wide, X, 0), wide[..., : X.shape[-1] if len(shape) == 4 else 1]], -1)
    x = np.where(wide, X, np.nan)
    if channel_axis == 2:
        x, want = np.moveaxis(x, -1, 2), np.moveaxis(want, -1, 2)
        mask = np.moveaxis(mask, -1, 2) if len(shape) == 4 else mask
    got = run(kind, masks.with_indicator, x, mask, channel_axis=channel_axis)
    assert got.dtype == X.dtype
    np.testing.assert_array_equal(got, want)


@every_kind
def test_an_indicator_of_one_channel_and_of_a_series(kind):
    series, mask = X[:, :, 0], np.array([[1, 0, 1], [0, 1, 1]])
    got = run(kind, masks.with_indicator, series[..., :1], mask)
    np.testing.assert_array_equal(got, np.stack([series[..., 0] * mask, mask], -1))
    got = run(kind, masks.with_indicator, series, mask)
    np.testing.assert_array_equal(got[..., 2], mask)


def test_an_indicator_wants_a_mask_that_fits():
    message = (
        "`mask` has shape (3, 2), but the input has shape (2, 3, 4, 2): expected (2, 3) or (2, 3, 4) or (2, 3, 4, 2); "
        "a mask is matched exactly and never broadcast"
    )
    with refused(message):
        masks.with_indicator(X, np.ones((3, 2)))


def elapsed_by_loops(mask, dt):
    """Eq. (25)."""
    delta = np.zeros(mask.shape)
    for t in range(1, mask.shape[1]):
        step = dt[:, t].reshape(-1, *(1,) * (mask.ndim - 2))
        delta[:, t] = step + np.where(mask[:, t - 1], 0, delta[:, t - 1])
    return delta


@drawn(data=st.data())
def test_elapsed_is_the_time_since_the_last_observation(kind, data):
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=4, min_side=0, max_side=9))
    mask = data.draw(hnp.arrays(np.bool_, shape))
    dt = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 9, shape[:2]).astype(np.float32)
    np.testing.assert_array_equal(run(kind, masks.elapsed, mask, dt), elapsed_by_loops(mask, dt))


@every_kind
def test_elapsed_without_dt_counts_steps_and_is_a_real_number(kind):
    mask = np.array([[1, 0, 0, 1, 1, 0]])
    got = run(kind, masks.elapsed, mask)
    np.testing.assert_array_equal(got, [[0, 1, 2, 3, 1, 1]])
    assert got.dtype.kind == "f"
    np.testing.assert_array_equal(run(kind, masks.elapsed, mask, np.array([[5, 1, 2, 3, 4, 6]])), [[0, 1, 3, 6, 4, 6]])


def test_elapsed_of_great_and_small_times_keeps_both():
    dt = np.array([[0, 1e8, 1e8, 0.5, 0.25]], np.float32)
    assert masks.elapsed(np.array([[1, 0, 1, 0, 0]]), dt).tolist() == [[0, 1e8, 2e8, 0.5, 0.75]]


def test_elapsed_wants_a_dt_that_fits():
    with refused("`dt` has shape (3, 2), but the mask has shape (2, 3, 4): expected (2, 3)"):
        masks.elapsed(np.ones((2, 3, 4)), np.ones((3, 2)))


@drawn(data=st.data())
def test_a_running_sum_begins_anew(kind, data):
    shape = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 20), st.integers(1, 2)))
    restart = data.draw(hnp.arrays(np.bool_, shape))
    values = np.random.default_rng(0).integers(0, 9, shape).astype(np.float32)
    want, total = np.zeros(shape), np.zeros((shape[0], shape[2]))
    for t in range(shape[1]):
        total = values[:, t] + np.where(restart[:, t], 0, total)
        want[:, t] = total
    np.testing.assert_array_equal(np.asarray(arrays.running_sum(make(kind, values), make(kind, restart))), want)
