"""Detectors that need no training worth the name: a column, its running mean, its running median."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.detection.past import Running, since_last
from benchmarks.detection.tasks import Task

PRIOR = 5.0  # events' worth of the population in an entity's own figures
DEVIATION = 1.4826  # of a normal distribution, over its median absolute deviation
QUARTILES_TO_DEVIATION = 1.349


def column(task: Task, name: str, sign: float) -> np.ndarray:
    """A column by itself, or what is small in it: (rows,)."""
    return sign * task.column(name)


def running_mean_z(fitted: Task, task: Task, name: str) -> np.ndarray:
    """How many standard deviations a value lies above the mean of the entity's earlier ones: (rows,).

    The training part's mean and variance count as five events more.
    """
    training = fitted.column(name)[fitted.training]
    centre, variance = np.nanmean(training), np.nanvar(training)
    values = task.column(name)
    past = Running.of(task.codes(), task.seconds, task.kept, values[:, None])
    count = np.nan_to_num(past.count[:, 0])
    mean = (count * np.nan_to_num(past.mean[:, 0]) + PRIOR * centre) / (count + PRIOR)
    square = np.nan_to_num(past.variance[:, 0] + past.mean[:, 0] ** 2)
    square = (count * square + PRIOR * (variance + centre**2)) / (count + PRIOR)
    return (values - mean) / np.sqrt(np.maximum(square - mean**2, 1e-12))


@dataclass(frozen=True)
class Scale:
    """Amounts of either sign to values of order one, as the training part has them: logarithmic far out.

    Attributes:
        unit, centre, spread: (V,) of each column.
    """

    unit: np.ndarray
    centre: np.ndarray
    spread: np.ndarray

    @classmethod
    def fit(cls, values: np.ndarray) -> Scale:
        """Of values (rows, V), NaN where missing."""
        size = np.where(values == 0, np.nan, np.abs(values))
        unit = np.nan_to_num(np.nanmedian(size, 0), nan=1.0)
        low, centre, high = np.nanquantile(np.arcsinh(values / unit), [0.25, 0.5, 0.75], axis=0)
        spread = (high - low) / QUARTILES_TO_DEVIATION
        return cls(unit, centre, np.where(spread > 0, spread, 1.0))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return (np.arcsinh(values / self.unit) - self.centre) / self.spread


def features(task: Task) -> np.ndarray:
    """The values and the time since the entity's last event: (rows, V + 1), NaN where missing."""
    gap = since_last(task.codes(), task.seconds, task.kept)
    return np.column_stack([task.numbers(), gap])


def scaled(fitted: Task, task: Task) -> np.ndarray:
    """`features`, of order one."""
    return Scale.fit(features(fitted)[fitted.training])(features(task))


def robust_z(fitted: Task, task: Task) -> np.ndarray:
    """The largest |value - median| / spread of the entity's last 50 earlier events, on the sides that count: (rows,).

    The population counts as five events more in the spread, and stands in where nothing came before.
    """
    values = scaled(fitted, task)[:, : len(task.values)]
    past = Running.of(task.codes(), task.seconds, task.kept, values)
    count = np.nan_to_num(past.count)
    spread = (count * np.nan_to_num(past.deviation) * DEVIATION + PRIOR) / (count + PRIOR)
    z = (values - np.nan_to_num(past.median)) / spread
    return largest(np.stack([directed(task, name, z[:, place]) for place, name in enumerate(task.values)], 1))


def directed(task: Task, name: str, z: np.ndarray) -> np.ndarray:
    """Distances by the side of this value that is anomalous."""
    return z if name in task.upper else -z if name in task.lower else np.abs(z)


def largest(parts: np.ndarray) -> np.ndarray:
    """The largest of each row's parts (rows, parts), NaN where there is none."""
    best = np.where(np.isnan(parts), -np.inf, parts).max(1)
    return np.where(np.isfinite(best), best, np.nan)
