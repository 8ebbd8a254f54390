"""From a table of events to the numbers the network reads and predicts, scaled on the training part only."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import polars as pl

from gapcell.detect.carried import SUMS
from gapcell.detect.columns import Column
from gapcell.detect.events import FEW, GAP, REPORTS, EventTable
from gapcell.detect.moments import running_moments
from gapcell.detect.streams import Stream

OTHER = "other"
FARTHEST_INPUT = 10.0  # spreads; an input further out says no more, and would saturate the gates
SHORTEST_USUAL = 0.01  # quantile of the training gaps that counts as the shortest usual one
SMALLEST_UNIT = 1e-12
LARGEST = 1e300  # a scaled amount; keeps the overflow of a quotient finite
FARTHEST_LOG = 600.0  # its exponential, times any unit, is finite
LEAST_ZEROS = 0.1  # share of zeros in the training part from which on they get a probability of their own
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
        name: the column's name, "time_since_last" or "recent_reports".
        kind: "numeric", "categorical", "boolean", "gap" or "reports".
        scaling: for a numeric feature, the gap or reports.
        categories: for a categorical feature those of the training part, commonest first, without "other".
        zeros: True for a number that never is negative and often zero, so that zero has a probability of its own.
    """

    name: str
    kind: str
    scaling: Scaling | None = None
    categories: tuple[str, ...] = ()
    zeros: bool = False

    @property
    def zero(self) -> float | None:
        """The scaled value of zero where it has a probability of its own."""
        return float(self.scaling.forward(np.zeros(1))[0]) if self.zeros and self.scaling is not None else None

    @property
    def channels(self) -> int:
        """Input channels of its value."""
        return len(self.categories) + 1 if self.kind == "categorical" else 1


@dataclass(frozen=True, eq=False)
class Encoded:
    """The places of a stream as numbers, sorted as they are.

    Attributes:
        inputs: (places, channels) float32, what the network reads; 0 where missing.
        observed: (places, channels) bool, True where an input is there.
        value: (places, features) float64, what is predicted: scaled value, category's number, or 0/1; NaN where
            missing, and for a report.
        below: the same with numbers half a step down before they are scaled.
        above: likewise half a step up.
        moments: (places, M) float32, what the numbers of the series were like up to here.
        sums: (series, 3, F) float64, the sums of which the moments at each series' last place are made.
    """

    inputs: np.ndarray
    observed: np.ndarray
    value: np.ndarray
    below: np.ndarray
    above: np.ndarray
    moments: np.ndarray
    sums: np.ndarray


@dataclass(frozen=True)
class Encoding:
    """How a stream of a table becomes inputs and targets.

    Inputs are the features' values, each channel masked where missing, one presence flag a feature, and, always
    observed, the hour of the day (where times have hours), the day of the week (where there is a calendar), and, where
    labels are read, whether it is a report and the time since the place before.
    """

    features: tuple[FeatureSpec, ...]
    hours: bool
    weekdays: bool
    reports: bool = False

    @classmethod
    def fit(cls, table: EventTable, stream: Stream, train_until: float, most_categories: int) -> Encoding:
        """Fit on the rows and places of a stream before `train_until`."""
        training = table.seconds < train_until
        past = stream.seconds < train_until
        gaps = stream.since_last()[past]
        features = [fit_feature(column, table.values[column.name], training, most_categories)
                    for column in table.reading.columns]  # fmt: skip
        features.append(FeatureSpec(GAP, "gap", Scaling.fit(gaps[~np.isnan(gaps)], logarithmic=True)))
        reports = stream.half_life is not None
        if reports:
            count = stream.recent_reports[past]
            scaling = dataclasses.replace(Scaling.fit(count[count > 0]), step=0.0)  # what fades has no least step
            features.append(FeatureSpec(REPORTS, "reports", scaling, zeros=True))
        return cls(tuple(features), table.reading.has_hours, table.time.dtype != pl.Float64, reports)

    @property
    def gap(self) -> Scaling:
        """The scaling of the time since the last event."""
        return next(f.scaling for f in self.features if f.kind == "gap" and f.scaling is not None)

    @property
    def channels(self) -> int:
        """Input channels."""
        always = 2 * (self.hours + self.weekdays + self.reports)
        return sum(f.channels for f in self.features) + len(self.features) + always

    @property
    def remembered(self) -> list[int]:
        """The numbers of the features whose running moments the network reads."""
        return [number for number, feature in enumerate(self.features) if feature.kind in ("numeric", "gap")]

    @property
    def flags(self) -> slice:
        """Which input channels are the presence flags."""
        first = sum(feature.channels for feature in self.features)
        return slice(first, first + len(self.features))

    def encode(self, table: EventTable, stream: Stream) -> Encoded:
        """Inputs, their mask, and targets of every place of a stream."""
        columns = [self.numbers(feature, table, stream) for feature in self.features]
        targets = [target_of(f, numbers, 0.0) for f, numbers in zip(self.features, columns, strict=True)]
        inputs, observed = [], []
        for feature, target in zip(self.features, targets, strict=True):
            there = ~np.isnan(target)
            near = np.clip(np.where(there, target, 0.0), -FARTHEST_INPUT, FARTHEST_INPUT)[:, None]
            inputs.append(one_hot(target, feature.channels) if feature.kind == "categorical" else near)
            observed.append(np.repeat(there[:, None], feature.channels, 1))
        inputs += [(~np.isnan(target)).astype(np.float32)[:, None] for target in targets]  # presence flags
        if self.hours:
            inputs.append(circle(stream.seconds, 86_400))
        if self.weekdays:
            inputs.append(circle(np.floor(stream.seconds / 86_400), 7))
        if self.reports:
            inputs += [stream.report.astype(np.float32)[:, None], self.gap.forward(stream.waited())[:, None]]
        always = np.ones((len(stream.row), self.channels - sum(f.channels for f in self.features)), dtype=bool)
        below, above = (
            np.stack([target_of(f, n, shift) for f, n in zip(self.features, columns, strict=True)], 1)
            for shift in (-0.5, 0.5)
        )
        earlier = None if stream.carried is None else stream.carried.records[SUMS]
        moments = running_moments(np.stack([targets[number] for number in self.remembered], 1), stream.starts, earlier)
        return Encoded(
            np.hstack(inputs, dtype=np.float32, casting="same_kind"),
            np.hstack([*observed, always]),
            np.stack(targets, 1),
            below,
            above,
            *moments,
        )

    def numbers(self, feature: FeatureSpec, table: EventTable, stream: Stream) -> np.ndarray:
        """A feature at each place in its own unit, float64 (places,), NaN where missing and for reports."""
        if feature.kind == "gap":
            return stream.since_last()
        if feature.kind == "reports":
            return stream.recent_reports
        return np.where(stream.report, np.nan, numbers_of(feature, table.values[feature.name])[stream.row])


def fit_feature(column: Column, values: pl.Series, training: np.ndarray, most_categories: int) -> FeatureSpec:
    """Scale or list one column on the training rows."""
    known = values.filter(pl.Series(training)).drop_nulls()
    if column.kind == "numeric":
        numbers = known.to_numpy()
        zeros = len(numbers) > 0 and float(numbers.min()) == 0 and float((numbers == 0).mean()) >= LEAST_ZEROS
        return FeatureSpec(column.name, "numeric", Scaling.fit(numbers), zeros=zeros)
    if column.kind == "boolean":
        return FeatureSpec(column.name, "boolean")
    counts = known.value_counts().sort(["count", column.name], descending=[True, False])  # ties by name: one order
    return FeatureSpec(column.name, "categorical", categories=tuple(counts[column.name].head(most_categories)))


def numbers_of(feature: FeatureSpec, values: pl.Series) -> np.ndarray:
    """A column as float64: the value, the category's number (the last is "other"), or 0/1; NaN where missing."""
    if feature.kind == "categorical":
        number = {name: float(i) for i, name in enumerate(feature.categories)}
        if len(values) <= FEW:
            other = float(len(number))
            return np.array([math.nan if name is None else number.get(name, other) for name in values.to_list()])
        codes = values.replace_strict(number, default=float(len(number)), return_dtype=pl.Float64).to_numpy()
        return np.where(values.is_null().to_numpy(), np.nan, codes)
    return values.cast(pl.Float64).to_numpy()


def target_of(feature: FeatureSpec, numbers: np.ndarray, shift: float) -> np.ndarray:
    """What is to be predicted of a feature, moved by `shift` steps before it is scaled; NaN where missing.

    A zero with a probability of its own is not moved.
    """
    if feature.scaling is None:
        return numbers
    moved = numbers + shift * feature.scaling.step
    return feature.scaling.forward(np.where(numbers == 0, 0.0, moved) if feature.zeros else moved)


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
