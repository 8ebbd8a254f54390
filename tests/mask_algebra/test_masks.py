"""The mask algebra, for every kind of array, against loops over single values."""

import numpy as np
import pytest
from hypothesis import strategies as st

from gapcell import masks
from mask_algebra.kinds import bools, drawn, every_kind, make, numbers, refused, run

# What is observed, what exists ----------------------------------------------------------------------------------------


@every_kind
def test_from_lengths(kind):
    got = run(kind, masks.from_lengths, np.array([3, 0, 4]), 4)
    assert got.tolist() == [[True, True, True, False], [False] * 4, [True] * 4]
    got = run(kind, masks.from_lengths, np.array([[1, 3], [2, 2], [0, 4]]), 4)
    assert got.tolist() == [[False, True, True, False], [False] * 4, [True] * 4]
    assert got.dtype == bool
    assert run(kind, masks.from_lengths, np.array([0, 0]), 0).shape == (2, 0)
    assert run(kind, masks.from_lengths, np.zeros(0, dtype=np.int32), 5).shape == (0, 5)


def test_lengths_may_be_a_list():
    assert masks.from_lengths([1, 2], 2).tolist() == [[True, False], [True, True]]


@every_kind
@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (np.zeros((2, 3), dtype=int), "`lengths` has shape (2, 3), expected (N,) or (N, 2) with start and stop"),
        (np.zeros((), dtype=int), "`lengths` has shape (), expected (N,) or (N, 2) with start and stop"),
        (
            np.array([4, 5]),
            "`lengths` says steps 0 to 5 for row 1, but the input has 4 steps: expected 0 <= start <= stop <= 4 "
            "(shapes (2,) and 4 steps)",
        ),
        (
            np.array([[0, 4], [-1, 2]]),
            "`lengths` says steps -1 to 2 for row 1, but the input has 4 steps: expected 0 <= start <= stop <= 4 "
            "(shapes (2,) and 4 steps)",
        ),
        (
            np.array([[3, 2], [0, 4]]),
            "`lengths` says steps 3 to 2 for row 0, but the input has 4 steps: expected 0 <= start <= stop <= 4 "
            "(shapes (2,) and 4 steps)",
        ),
    ],
)
def test_lengths_that_do_not_fit_are_refused(kind, lengths, message):
    with refused(message):
        run(kind, masks.from_lengths, lengths, 4)


@every_kind
@pytest.mark.parametrize("dtype", [np.float32, np.bool_])
def test_lengths_that_are_no_integers_are_refused(kind, dtype):
    with pytest.raises(ValueError, match=r"^`lengths` has dtype (torch\.)?(float32|bool), expected integers counting "):
        run(kind, masks.from_lengths, np.ones(2, dtype=dtype), 4)


def test_where_values_may_not_be_looked_at_lengths_are_clamped():
    torch = pytest.importorskip("torch", reason="the tracing here is torch's vmap")
    got = torch.vmap(lambda length: masks.from_lengths(length[None], 3)[0])(torch.tensor([9, -2, 1]))
    assert got.tolist() == [[True] * 3, [False] * 3, [True, False, False]]


@every_kind
def test_from_nan(kind):
    x = np.array([[0.0, np.nan, np.inf], [-1.0, 1e30, np.nan]], dtype=np.float32)
    assert run(kind, masks.from_nan, x).tolist() == [[True, False, True], [True, True, False]]


@every_kind
@pytest.mark.parametrize(
    ("shape", "axis", "kinds"),
    [
        ((2, 3, 4, 5), -1, [(2, 3), (2, 3, 4), (2, 3, 4, 5)]),
        ((2, 3, 5, 4), 2, [(2, 3), (2, 3, 4), (2, 3, 5, 4)]),
        ((2, 3, 4, 4, 5), 4, [(2, 3), (2, 3, 4, 4), (2, 3, 4, 4, 5)]),
        ((2, 3, 5), -1, [(2, 3), (2, 3, 5)]),  # a series: its steps are its sites
    ],
)
def test_resolve_takes_each_rank_of_mask_in_every_dtype(kind, shape, axis, kinds):
    for wanted in kinds:
        observed = numbers(*wanted) > 0
        for dtype in (np.bool_, np.uint8, np.int32, np.float32):
            got = run(kind, masks.resolve, observed.astype(dtype), shape, channel_axis=axis)
            assert got.dtype == bool
            np.testing.assert_array_equal(got, observed)


@every_kind
def test_nan_in_a_float_mask_is_not_observed(kind):
    mask = np.array([[1, np.nan, 0], [np.nan, 0, 1]], dtype=np.float32)
    got = run(kind, masks.resolve, mask, (2, 3, 4, 1))
    assert got.tolist() == [[True, False, False], [False, False, True]]


@every_kind
@pytest.mark.parametrize("shape", [(3,), (1, 3), (3, 1), (3, 3, 1), (1, 3, 3, 3), (3, 3, 3, 3, 3), ()])
def test_a_mask_is_never_broadcast_even_where_all_sizes_are_equal(kind, shape):
    with refused(
        f"`mask` has shape {shape}, but the input has shape (3, 3, 3, 3): expected (3, 3) or (3, 3, 3) or (3, 3, 3, 3)"
        "; a mask is matched exactly and never broadcast"
    ):
        run(kind, masks.resolve, np.ones(shape), (3, 3, 3, 3))


@every_kind
@pytest.mark.parametrize("value", [2, -1, 0.5, np.inf, 1e-30])
def test_other_values_than_0_1_and_nan_are_refused(kind, value):
    mask = np.array([[1, 0, value]], dtype=np.float32 if isinstance(value, float) else np.int64)
    with refused(
        "`mask` holds values other than 0, 1 and NaN; it must be bool, integer or float 0/1 with 1 = observed"
    ):
        run(kind, masks.resolve, mask, (1, 3, 2, 2))


@every_kind
@pytest.mark.parametrize("lengths", [None, np.array([2, 3]), np.array([[1, 2], [0, 0]])])
@pytest.mark.parametrize("domain", [None, (4,), (2, 4)])
def test_existing(kind, lengths, domain):
    domain = None if domain is None else numbers(*domain) > 0
    like = make(kind, np.zeros(1, dtype=np.float32))
    options = [None if each is None else make(kind, each) for each in (lengths, domain)]
    got = masks.existing(*options, (2, 3, 4), like)
    if lengths is None and domain is None:
        assert got is None
        return
    assert type(got) is type(like)
    bounds = [(0, 3), (0, 3)] if lengths is None else [(0, each) if each.ndim == 0 else each for each in lengths]
    want = np.zeros((2, 3, 4), dtype=bool)
    for n, t, s in np.ndindex(2, 3, 4):
        inside = True if domain is None else (domain if domain.ndim == 1 else domain[n])[s]
        want[n, t, s] = bounds[n][0] <= t < bounds[n][1] and inside
    np.testing.assert_array_equal(np.asarray(got), want[..., 0] if domain is None else want)


@every_kind
def test_what_exists_is_refused_with_both_shapes(kind):
    like = make(kind, np.zeros(1, dtype=np.float32))
    with refused("`lengths` has shape (3,), but the input has 2 rows (N, T, *S) = (2, 5, 4): expected (2,) or (2, 2)"):
        masks.existing(make(kind, np.array([1, 2, 3])), None, (2, 5, 4), like)
    with refused("`domain` has shape (5,), but the input has sites (N, T, *S) = (2, 5, 4): expected (2, 4) or (4,)"):
        masks.existing(None, make(kind, np.ones(5)), (2, 5, 4), like)
    with pytest.raises(ValueError, match=r"^`domain` holds values other than 0, 1 and NaN"):
        masks.existing(None, make(kind, np.full(4, 0.5, dtype=np.float32)), (2, 5, 4), like)


@every_kind
def test_expand_and_observed_sites(kind):
    elements = numbers(2, 3, 4, 5) > 1
    assert run(kind, masks.expand, elements[..., 0], 5).shape == (2, 3, 4, 1, 1)
    np.testing.assert_array_equal(run(kind, masks.expand, elements[:, :, 0, 0], 3)[..., 0], elements[:, :, 0, 0])
    np.testing.assert_array_equal(run(kind, masks.observed_sites, elements, 4), elements.any(-1))
    np.testing.assert_array_equal(run(kind, masks.observed_sites, elements[..., 0], 4), elements[..., 0])
    np.testing.assert_array_equal(run(kind, masks.observed_sites, elements[:, :, 0, 0], 4), elements[:, :, 0, 0])


# Events ---------------------------------------------------------------------------------------------------------------


@drawn(mask=st.tuples(st.integers(0, 3), st.integers(0, 8)).flatmap(bools))
def test_compact_moves_kept_events_to_the_front(kind, mask):
    x = numbers(*mask.shape, 2)
    moved, counts = run(kind, masks.compact, x, mask)
    assert counts.tolist() == [int(row.sum()) for row in mask]
    want = np.zeros_like(x)
    for row, kept in enumerate(mask):
        want[row, : kept.sum()] = x[row][kept]
    np.testing.assert_array_equal(moved, want)


@drawn(mask=st.tuples(st.integers(0, 3), st.integers(0, 8)).flatmap(bools))
def test_scatter_puts_them_back(kind, mask):
    x, held = numbers(*mask.shape, 2), numbers(mask.shape[0], 2, seed=1)
    moved, _ = masks.compact(x, mask)
    np.testing.assert_array_equal(run(kind, masks.scatter, moved, mask), np.where(mask[..., None], x, 0))
    want = np.zeros_like(x)
    for row in range(len(mask)):
        latest = held[row]
        for event in range(mask.shape[1]):
            latest = x[row, event] if mask[row, event] else latest
            want[row, event] = latest
    np.testing.assert_array_equal(run(kind, masks.scatter, moved, mask, held), want)


@every_kind
def test_a_mask_may_be_compacted_too(kind):
    events = np.array([[True, False, True], [False, False, True]])
    moved, _ = run(kind, masks.compact, events, np.array([[False, True, True], [True, False, True]]))
    assert moved.dtype == bool
    assert moved.tolist() == [[False, True, False], [False, True, False]]


@drawn(events=st.integers(0, 9), window=st.integers(1, 5))
def test_windows_and_back(kind, events, window):
    x = numbers(2, events, 3)
    cut = run(kind, masks.windows, x, window)
    assert cut.shape == (2, -(-events // window), window, 3)
    for step, site in np.ndindex(cut.shape[1:3]):
        event = step * window + site
        np.testing.assert_array_equal(cut[:, step, site], x[:, event] if event < events else np.zeros((2, 3)))
    np.testing.assert_array_equal(run(kind, masks.from_windows, cut, events), x)
    exists = run(kind, masks.windows, np.ones((2, events), dtype=bool), window)
    assert exists.dtype == bool
    assert exists.sum() == 2 * events


@drawn(mask=st.tuples(st.integers(1, 3), st.integers(0, 5), st.integers(1, 3)).flatmap(bools))
def test_last_valid(kind, mask):
    y = np.where(mask[..., None], numbers(*mask.shape, 2), np.nan).astype(np.float32)
    want = np.zeros((mask.shape[0], mask.shape[2], 2), dtype=np.float32)
    for row, step, site in np.ndindex(mask.shape):
        if mask[row, step, site]:
            want[row, site] = y[row, step, site]
    np.testing.assert_array_equal(run(kind, masks.last_valid, y, mask), want)
    steps, by_step = mask.any(2), numbers(*mask.shape, seed=3)
    want = np.zeros_like(by_step[:, :1].sum(1))
    for row, step in np.ndindex(steps.shape):
        want[row] = by_step[row, step] if steps[row, step] else want[row]
    np.testing.assert_array_equal(run(kind, masks.last_valid, by_step, steps.astype(np.float32)), want)


@every_kind
def test_last_valid_of_another_shape_is_refused(kind):
    with refused("`mask` has shape (2, 4), but `y` (2, 3, 4): expected leading axes of `y`"):
        run(kind, masks.last_valid, numbers(2, 3, 4), np.ones((2, 4), dtype=bool))


# Devices --------------------------------------------------------------------------------------------------------------


def test_results_stay_on_the_callers_device():
    """The meta device stands for any accelerator: nothing comes back from it, and nothing may be looked at on it."""
    torch = pytest.importorskip("torch", reason="the device is torch's")
    meta = {"device": "meta"}
    steps, sites = torch.ones(2, 5, dtype=torch.bool, **meta), torch.ones(2, 5, 4, **meta)
    x = torch.ones(2, 5, 3, **meta)
    results = [
        masks.from_lengths(torch.tensor([3, 9], **meta), 5),
        masks.from_nan(x),
        masks.resolve(sites, (2, 5, 4, 3)),
        masks.existing(torch.tensor([3, 5]), np.ones(4), (2, 5, 4), x),
        masks.expand(steps, 3),
        masks.observed_sites(sites, 3),
        masks.through_conv(sites == 1, 3, stride=2, rule="all"),
        *masks.compact(x, steps),
        masks.scatter(x, steps),
        masks.windows(x, 3),
        masks.from_windows(masks.windows(x, 3), 5),
        masks.last_valid(x, steps),
    ]
    assert {each.device.type for each in results} == {"meta"}
