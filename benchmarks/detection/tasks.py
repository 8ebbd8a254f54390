"""What is to be found in which events, and what may be looked at to find it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

DATA = Path(os.environ.get("GAPCELL_DATA", Path(__file__).parents[3] / "shared" / "data"))
TIME, LABEL = "time", "label"


@dataclass(frozen=True, eq=False)
class Task:
    """Events in time order, and where time is cut.

    Rows are never dropped, so that the scores of every method stand beside one another: what was removed is not `kept`
    or null.

    Attributes:
        name: of the task, and of its results.
        events: one row an event: the keys, "time" (zoneless Datetime), the values, and "label" (Boolean, null where
            unknown).
        keys: columns that say whose event it is, the main one first.
        values: numeric columns; null where missing.
        train_until: what is before it may be learnt from.
        test_from: scores from it on are judged; between the two a detector may choose its settings and its threshold.
        judged: (rows,) bool, the events whose scores are judged.
        kept: (rows,) bool, False for an event that was removed.
        train_from: events before it teach no classifier (our encoders read their labels, too, and a rival that does so
            stands beside them).
        upper, lower: values of which only large or only small ones are anomalous.
        unscored: features of ours that are read and not scored.
        supervised: whether the labels of the training part may be learnt.
        label_delay: how long after an event its label is known to those who may use it; None: never.
        rules: name -> column and sign, a rule on one column; a detector that is not better is not needed.
        aggregates: what a method without memory is given of the past: task -> (rows, features), NaN where unknown.
        per_day: alerts a day that somebody looks at, each for another entity; None: not measured.
        series: whether it is judged as series of steps, each entity by itself, rather than as one list of events.
    """

    name: str
    events: pl.DataFrame
    keys: tuple[str, ...]
    values: tuple[str, ...]
    train_until: datetime
    test_from: datetime
    judged: np.ndarray
    kept: np.ndarray
    train_from: datetime = datetime(1970, 1, 1)
    upper: tuple[str, ...] = ()
    lower: tuple[str, ...] = ()
    unscored: tuple[str, ...] = ()
    supervised: bool = False
    label_delay: timedelta | None = None
    rules: dict[str, tuple[str, float]] = field(default_factory=dict)
    aggregates: Callable[[Task], np.ndarray] | None = None
    per_day: int | None = None
    series: bool = False

    @property
    def labels(self) -> np.ndarray:
        """(rows,) bool; False where unknown."""
        return self.events[LABEL].fill_null(value=False).to_numpy()

    @property
    def seconds(self) -> np.ndarray:
        """(rows,) float64 since 1970."""
        return self.events[TIME].dt.epoch("us").to_numpy() / 1e6

    @property
    def days(self) -> np.ndarray:
        """(rows,) int64, the day of each event since 1970."""
        return (self.seconds // 86_400).astype(np.int64)

    @property
    def training(self) -> np.ndarray:
        """(rows,) bool, the events that may be learnt from."""
        return self.kept & (self.events[TIME] < self.train_until).to_numpy()

    @property
    def teaching(self) -> np.ndarray:
        """(rows,) bool, the events whose labels may be learnt."""
        known = self.events[LABEL].is_not_null() & (self.events[TIME] >= self.train_from)
        return self.training & known.to_numpy()

    def codes(self, key: str | None = None) -> np.ndarray:
        """(rows,) int64, a number for whose event it is (the main key's)."""
        return self.events[key or self.keys[0]].cast(pl.String).rank("dense").to_numpy().astype(np.int64) - 1

    def column(self, name: str) -> np.ndarray:
        """One column (rows,) float64, NaN where missing."""
        return self.events[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()

    def numbers(self) -> np.ndarray:
        """The values (rows, V), NaN where missing."""
        return np.stack([self.column(name) for name in self.values], 1)

    @property
    def columns(self) -> tuple[str, ...]:
        """The values, and what rules look at besides."""
        return tuple(dict.fromkeys([*self.values, *(name for name, _ in self.rules.values())]))


class Scores(NamedTuple):
    """What a method says of a task's events.

    Attributes:
        score: (rows,) higher is more anomalous, NaN where not scored.
        nll: (rows,) negative log-likelihood of the first value, NaN where missing; None of a method without one.
        encoder: what ours chose.
        alerts_on_missing: alerts of ours on events none of whose values was observed.
    """

    score: np.ndarray
    nll: np.ndarray | None = None
    encoder: str = ""
    alerts_on_missing: int = 0


class NoDataError(FileNotFoundError):
    """The data of the benchmark is not there."""


def data(name: str) -> Path:
    """The path of a file of the data.

    Raises:
        NoDataError: it is not there; the message says how to say where it is.
    """
    path = DATA / name
    if not path.exists():
        raise NoDataError(f"{path} is not there: set GAPCELL_DATA to the folder that holds {name}")
    return path
