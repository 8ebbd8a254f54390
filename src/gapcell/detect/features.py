"""From a table of events to the numbers the network reads and predicts, scaled on the training part only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import polars as pl

from gapcell.detect.columns import Column
from gapcell.detect.events import GAP, EventTable

OTHER = "other"
FARTHEST_INPUT = 10.0  # spreads; an input further out says no more, and would saturate the gates
SHORTEST_USUAL = 0.01  # quantile of the training gaps that counts as the shortest usual one
SMALLEST_UNIT = 1e-12
LARGEST = 1e300  # a scaled amount; keeps the overflow of a quotient finite
FARTHEST_LOG = 600.0  # its exponential, times any unit, is finite
QUARTILES_TO_DEVIATION = 1.349  # the interquartile range of a standard normal


@dataclass(frozen=True)
class Scaling:
    """A monotone map of amounts of either sign onto values of order one, fitted on the training part.

    An amount v becomes z = (asinh(v / unit) - centre) / spread, and a time since the last event
    z = (log(v + unit) - centre) / spread: linear near zero, logarithmic far out.

    Attributes:
        logarithmic: True for the time since the last event.
        unit: the typical size of an amount, or the shortest usual time, in the column's unit.
        centre: median of the transformed values.
        spread: their interquartile range over 1.349.
        step: the least difference between two values, 0 for none: 1 for whole numbers, 0.01 for cents.
    """

    logarithmic: bool
    unit: float
    centre: float
    spread: float
    step: float = 0.0

    @classmethod
    def fit(cls, values: np.ndarray, *, logarithmic: bool = False) -> Scaling:
        """Fit on float64 values without NaN; with none or constant ones the map still is defined."""
        values = np.clip(values, -LARGEST, LARGEST)
        size = np.abs(values)
        sizes = size[size > 0]
        unit = float(np.quantile(sizes, SHORTEST_USUAL if logarithmic else 0.5)) if sizes.size else 1.0
        unit = min(max(unit, SMALLEST_UNIT), 1 / SMALLEST_UNIT)
        moved = cls(logarithmic, unit, 0.0, 1.0).forward(values)
        if moved.size == 0:
            return cls(logarithmic, unit, 0.0, 1.0)
        low, centre, high = np.quantile(moved, [0.25, 0.5, 0.75])
        spread = (high - low) / QUARTILES_TO_DEVIATION or float(np.std(moved)) or 1.0
        # a gap of zero always is possible, so that half a step below the shortest gap stays positive
        different = np.unique(np.append(values, 0.0) if logarithmic else values)
        step = float(np.diff(different).min()) if different.size > 1 else 0.0
        return cls(logarithmic, unit, float(centre), float(spread), step)

    def forward(self, values: np.ndarray) -> np.ndarray:
        """Values in the column's unit to values of order one."""
        if self.logarithmic:  # only half a step below zero can be negative, and only in a table of finer times
            moved = np.log(np.maximum(values, -self.unit / 2) + self.unit)
        else:
            with np.errstate(over="ignore"):
                moved = np.arcsinh(np.clip(values / self.unit, -LARGEST, LARGEST))
        return (moved - self.centre) / self.spread

    def backward(self, z: np.ndarray) -> np.ndarray:
        """Values of order one back to the column's unit."""
        moved = np.clip(z * self.spread + self.centre, -FARTHEST_LOG, FARTHEST_LOG)
        return np.maximum(np.exp(moved) - self.unit, 0.0) if self.logarithmic else np.sinh(moved) * self.unit


@dataclass(frozen=True)
class FeatureSpec:
    """How one feature is encoded.

    Attributes:
        name: the column's name, or "time_since_last".
        kind: "numeric", "categorical", "boolean" or "gap".
        scaling: for a numeric feature or the gap.
        categories: for a categorical feature those of the training part, commonest first, without "other".
    """

    name: str
    kind: str
    scaling: Scaling | None = None
    categories: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """Input channels of its value."""
        return len(self.categories) + 1 if self.kind == "categorical" else 1


@dataclass(frozen=True, eq=False)
class Encoded:
    """Events as numbers, sorted by entity and time as `EventTable.order` is.

    Attributes:
        inputs: (rows, channels) float32, what the network reads; 0 where missing.
        observed: (rows, channels) bool, True where an input is there.
        value: (rows, features) float64, what is predicted: scaled value, category's number, or 0/1; NaN where missing.
        below: the same with numbers half a step down before they are scaled.
        above: likewise half a step up.
    """

    inputs: np.ndarray
    observed: np.ndarray
    value: np.ndarray
    below: np.ndarray
    above: np.ndarray


@dataclass(frozen=True)
class Encoder:
    """How a table becomes inputs and targets.

    Inputs are the features' values, each channel masked where missing, one presence flag a feature, and, always
    observed, the hour of the day (where times have hours) and the day of the week (where there is a calendar).
    """

    features: tuple[FeatureSpec, ...]
    hours: bool
    weekdays: bool

    @classmethod
    def fit(cls, table: EventTable, training: np.ndarray, most_categories: int) -> Encoder:
        """Fit on the rows of a table where `training` (rows,) bool is True."""
        gaps = table.since_last()
        known = training & ~np.isnan(gaps)
        features = [fit_feature(column, table.values[column.name], training, most_categories)
                    for column in table.reading.columns]  # fmt: skip
        features.append(FeatureSpec(GAP, "gap", Scaling.fit(gaps[known], logarithmic=True)))
        return cls(tuple(features), table.reading.has_hours, table.time.dtype != pl.Float64)

    @property
    def channels(self) -> int:
        """Input channels."""
        return sum(f.channels for f in self.features) + len(self.features) + 2 * self.hours + 2 * self.weekdays

    @property
    def flags(self) -> slice:
        """Which input channels are the presence flags."""
        first = sum(feature.channels for feature in self.features)
        return slice(first, first + len(self.features))

    def encode(self, table: EventTable) -> Encoded:
        """Inputs, their mask, and targets of every event of a table."""
        gaps = table.since_last()
        columns = {f.name: gaps if f.kind == "gap" else numbers_of(f, table.values[f.name]) for f in self.features}
        targets = [target_of(f, columns[f.name], 0.0) for f in self.features]
        inputs, observed = [], []
        for feature, target in zip(self.features, targets, strict=True):
            there = ~np.isnan(target)
            near = np.clip(np.where(there, target, 0.0), -FARTHEST_INPUT, FARTHEST_INPUT)[:, None]
            inputs.append(one_hot(target, feature.channels) if feature.kind == "categorical" else near)
            observed.append(np.repeat(there[:, None], feature.channels, 1))
        inputs += [(~np.isnan(target)).astype(float)[:, None] for target in targets]  # presence flags
        if self.hours:
            inputs.append(circle(table.seconds, 86_400))
        if self.weekdays:
            inputs.append(circle(np.floor(table.seconds / 86_400), 7))
        always = np.ones((len(gaps), self.channels - sum(f.channels for f in self.features)), dtype=bool)
        order = table.order
        return Encoded(
            np.hstack(inputs).astype(np.float32)[order],
            np.hstack([*observed, always])[order],
            *(
                np.stack([target_of(f, columns[f.name], shift) for f in self.features], 1)[order]
                for shift in (0.0, -0.5, 0.5)
            ),
        )


def fit_feature(column: Column, values: pl.Series, training: np.ndarray, most_categories: int) -> FeatureSpec:
    """Scale or list one column on the training rows."""
    known = values.filter(pl.Series(training)).drop_nulls()
    if column.kind == "numeric":
        return FeatureSpec(column.name, "numeric", Scaling.fit(known.to_numpy()))
    if column.kind == "boolean":
        return FeatureSpec(column.name, "boolean")
    counts = known.value_counts().sort(["count", column.name], descending=[True, False])  # ties by name: one order
    return FeatureSpec(column.name, "categorical", categories=tuple(counts[column.name].head(most_categories)))


def numbers_of(feature: FeatureSpec, values: pl.Series) -> np.ndarray:
    """A column as float64: the value, the category's number (the last is "other"), or 0/1; NaN where missing."""
    if feature.kind == "categorical":
        number = {name: float(i) for i, name in enumerate(feature.categories)}
        codes = values.replace_strict(number, default=float(len(number)), return_dtype=pl.Float64)
        values = pl.select(pl.when(values.is_not_null()).then(codes)).to_series()
    return values.cast(pl.Float64).to_numpy()


def target_of(feature: FeatureSpec, numbers: np.ndarray, shift: float) -> np.ndarray:
    """What is to be predicted of a feature, moved by `shift` steps before it is scaled; NaN where missing."""
    if feature.scaling is None:
        return numbers
    return feature.scaling.forward(numbers + shift * feature.scaling.step)


def one_hot(codes: np.ndarray, size: int) -> np.ndarray:
    """Category's number to (rows, size); a row of zeros where missing."""
    there = ~np.isnan(codes)
    hot = np.zeros((len(codes), size))
    hot[there, codes[there].astype(int)] = 1.0
    return hot


def circle(numbers: np.ndarray, period: float) -> np.ndarray:
    """Place on a circle: (rows, 2) sine and cosine, so that the end of a period is beside its start."""
    angle = 2 * math.pi * (numbers % period) / period
    return np.stack([np.sin(angle), np.cos(angle)], 1)
