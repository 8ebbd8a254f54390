"""Padded arrays as tables of events: what is observed and nothing else, each event in its place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gapcell.detect import TableError
from gapcell.detect.columns import Column
from gapcell.detect.padded import Padded, read_arrays

SIZES = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3))


@st.composite
def padded(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, an element mask, and lengths with a start; anything stands where nothing is observed."""
    shape = draw(SIZES)
    x = draw(arrays(np.float64, shape, elements=st.floats(-1e6, 1e6)))
    mask = draw(arrays(np.bool_, shape))
    ends = draw(arrays(np.int64, (shape[0], 2), elements=st.integers(0, shape[1])))
    return x, mask, np.sort(ends, 1)


def observed(x: np.ndarray, mask: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    step = np.arange(x.shape[1])
    return mask & ((step >= lengths[:, :1]) & (step < lengths[:, 1:]))[:, :, None]


@settings(max_examples=80, deadline=None)
@given(padded(), st.sampled_from([np.nan, 1e30, -np.inf]))
def test_each_observed_event_is_a_row_and_comes_back_to_its_place(
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray], under: float
) -> None:
    x, mask, lengths = drawn
    seen = observed(*drawn)
    found = read_arrays(np.where(seen, x, under), mask=mask, lengths=lengths)
    assert found.frame.height == int(seen.any(2).sum())
    n, step = np.nonzero(seen.any(2))
    assert found.frame["row"].to_list() == n.tolist()
    assert found.frame["step"].to_list() == step.tolist()
    for channel, column in enumerate(found.columns):
        values = found.frame[column.name].fill_null(float("nan")).to_numpy()
        wanted = np.where(seen, x, np.nan)[:, :, channel]
        np.testing.assert_array_equal(found.spread(values, np.nan), wanted)


def times_at(event: tuple[int, int], value: object, kind: str) -> dict[str, np.ndarray]:
    times = np.zeros((2, 3), dtype=kind)
    times[event] = value
    return {"times": times}


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "float64"), (np.inf, "float64"), ("NaT", "datetime64[s]")])
def test_an_event_needs_a_time_and_a_gap_does_not(value: object, kind: str) -> None:
    mask = np.array([[1, 1, 0], [1, 1, 1]])
    with pytest.raises(TableError, match=r"times\[1, 2\] is .*, and the mask says that an event is there: every event"):
        read_arrays(np.ones((2, 3, 1)), mask=mask, **times_at((1, 2), value, kind))
    assert read_arrays(np.ones((2, 3, 1)), mask=mask, **times_at((0, 2), value, kind)).frame.height == 5


def test_channels_are_amounts_unless_said_otherwise() -> None:
    found: Padded = read_arrays(np.ones((1, 2, 2)), names=["load", Column("open", "boolean")])
    assert found.columns == (Column("load", "numeric"), Column("open", "boolean"))
    assert [column.name for column in read_arrays(np.ones((1, 2, 2))).columns] == ["x0", "x1"]
