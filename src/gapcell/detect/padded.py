"""Padded arrays with masks as a table of events, and scores back as arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from gapcell import masks
from gapcell.detect.columns import Column
from gapcell.detect.events import GAP
from gapcell.detect.refusals import TableError
from gapcell.detect.times import SECONDS

ROW, STEP, LABEL = "row", "step", "label"
"""The columns of the table that an array becomes: its entity, its time and its label."""


@dataclass(frozen=True, eq=False)
class Padded:
    """An array's observed events.

    Attributes:
        shape: (N, S, C) of the array.
        frame: the events as a table with the columns "row", "step", one a channel and, when given, "label".
        columns: the channels as columns of the table.
        place: (events,) int64, where each event is in (N, S) laid out in rows.
    """

    shape: tuple[int, int, int]
    frame: pl.DataFrame
    columns: tuple[Column, ...]
    place: np.ndarray

    @property
    def reading(self) -> dict[str, Any]:
        """How `read_table` is to read `frame`."""
        numbers_as = SECONDS if self.frame[STEP].dtype.is_numeric() else None
        return {"entity": ROW, "time": STEP, "values": self.columns, "numbers_as": numbers_as}

    def spread(self, values: np.ndarray, filling: Any) -> np.ndarray:
        """Values (events,) in their places, (N, S), and `filling` where no event is."""
        whole = np.full(self.shape[0] * self.shape[1], filling, dtype=values.dtype)
        whole[self.place] = values
        return whole.reshape(self.shape[:2])


def read_arrays(
    x: Any,
    *,
    mask: Any = None,
    lengths: Any = None,
    times: Any = None,
    names: Sequence[str | Column] | None = None,
    labels: Any = None,
) -> Padded:
    """The observed events of padded arrays; every row of x is an entity.

    An event none of whose channels is observed is no event: it is as if it were deleted. A masked channel of another
    event is a missing value. Nothing is inferred from values: NaN where the mask says observed is refused.

    Args:
        x: (N, S, C) numbers, of any framework.
        mask: (N, S) or (N, S, C), True where observed, as `gapcell.masks.resolve` takes it; None: everywhere.
        lengths: (N,), or (N, 2) start and stop, of the events that exist; None: all.
        times: (N, S) seconds or datetime64 of the events; None: the number of the step.
        names: of the C channels, a `Column` where one is no amount; None: x0, x1, ...
        labels: (N, S) bool or 0/1, NaN where unknown.

    Raises:
        ValueError: a shape does not fit; the message has both.
        TableError: an observed value is NaN or infinite, or a name cannot be used.
    """
    x = np.asarray(x)
    if x.ndim != 3 or x.dtype.kind not in "fiub":
        raise ValueError(
            f"`X` has shape {x.shape} and dtype {x.dtype}: expected numbers (N, S, C) of N series, S events and C "
            "channels, or a table (a frame or a path) with a column for the entity and one for the time"
        )
    x = x.astype(np.float64)
    observed = observed_elements(x, mask, lengths)
    refuse_unusable(x, observed)
    columns = channels(names, x.shape[2])
    event = np.any(observed, axis=2)
    place = np.flatnonzero(event)
    data: dict[str, np.ndarray] = {ROW: place // x.shape[1], STEP: times_of(times, event)[place]}
    values = np.where(observed, x, np.nan).reshape(-1, x.shape[2])[place]
    data |= {column.name: values[:, number] for number, column in enumerate(columns)}
    frame = pl.DataFrame(data)
    if labels is not None:
        known = matched(labels, x.shape[:2], "y").ravel()[place]
        frame = frame.with_columns(pl.Series(LABEL, known.tolist(), strict=False))
    return Padded(x.shape, frame.fill_nan(None), columns, place)


def observed_elements(x: np.ndarray, mask: Any, lengths: Any) -> np.ndarray:
    """Where x is observed and exists: (N, S, C) bool."""
    observed = np.ones(x.shape, dtype=bool)
    if mask is not None:
        observed &= masks.expand(masks.resolve(np.asarray(mask), x.shape), 3)
    exists = None if lengths is None else masks.existing(np.asarray(lengths), None, x.shape[:2], x)
    return observed if exists is None else observed & exists[:, :, None]


def refuse_unusable(x: np.ndarray, observed: np.ndarray) -> None:
    """Refuse NaN and infinities among the observed values."""
    bad = observed & ~np.isfinite(x)
    if bad.any():
        at = ", ".join(str(int(place)) for place in np.argwhere(bad)[0])
        cure = (
            "mask=gapcell.masks.from_nan(X) says that NaN is missing" if np.isnan(x[bad][0]) else "correct or mask it"
        )
        raise TableError(f"X[{at}] is {x[bad][0]}, and the mask says that it is observed: {cure}")


def channels(names: Sequence[str | Column] | None, count: int) -> tuple[Column, ...]:
    """The channels as columns: amounts unless said otherwise."""
    names = [f"x{number}" for number in range(count)] if names is None else names
    columns = tuple(name if isinstance(name, Column) else Column(name, "numeric") for name in names)
    found = [column.name for column in columns]
    if len(found) != count:
        raise ValueError(f"`values` names {len(found)} channels, but X has {count}: expected a name for each")
    twice = [name for name, times in Counter([*found, ROW, STEP, LABEL, GAP]).items() if times > 1]
    if twice:
        raise TableError(f"a channel cannot be named {twice[0]!r}: the name is taken, choose another in values")
    return columns


def times_of(times: Any, event: np.ndarray) -> np.ndarray:
    """The time of each place, flat: float64 seconds, or datetime64 in microseconds; the step's number when None.

    Args:
        times: (N, S), or None.
        event: (N, S) bool, True where an event needs a time.
    """
    if times is None:
        return np.tile(np.arange(event.shape[1], dtype=np.float64), event.shape[0])
    times = matched(times, event.shape, "times")
    times = times.astype("datetime64[us]" if times.dtype.kind == "M" else np.float64)
    bad = np.argwhere(event & ~np.isfinite(times))
    if len(bad):
        n, step = bad[0]
        raise TableError(f"times[{n}, {step}] is {times[n, step]}, and the mask says that an event is there: every "
                         "event needs a time")  # fmt: skip
    return times.ravel()


def matched(array: Any, shape: tuple[int, int], name: str) -> np.ndarray:
    """An array that goes with x and must have its first two axes."""
    array = np.asarray(array)
    if array.shape != shape:
        raise ValueError(f"`{name}` has shape {array.shape}, but X has {shape[0]} series of {shape[1]} events: "
                         f"expected {shape}")  # fmt: skip
    return array


@dataclass(frozen=True, eq=False)
class ArrayScores:
    """Scores of padded arrays.

    Attributes:
        score: (N, S) float64, NaN where no event is or nothing could be scored.
        features: (N, S, C) float64, each channel's surprise, NaN where not scored.
        since_last: (N, S) float64, the surprise of the time since the series' event before, NaN where not scored.
        alert: (N, S) bool, never True where there is no score.
        not_scored: how many values of events were not scored for which reason.
    """

    score: np.ndarray
    features: np.ndarray
    since_last: np.ndarray
    alert: np.ndarray
    not_scored: dict[str, int]
