"""What the past of an event holds: sums over windows of time, and running figures; none of them sees the future."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

DAY = 86_400.0
MEMORY = 50  # earlier events that a running median looks back on


@dataclass(frozen=True, eq=False)
class Timeline:
    """Entities' events behind one another, so that a window of time of every event is found by two searches.

    Attributes:
        codes: (rows,) int64, whose event it is.
        seconds: (rows,) float64.
        kept: (rows,) bool; the windows see these events only.
    """

    codes: np.ndarray
    seconds: np.ndarray
    kept: np.ndarray

    def sums(self, days: float, amounts: np.ndarray | None = None, delay: float = 0.0) -> np.ndarray:
        """For every event the sum of amounts over its entity's events in the `days` that ended `delay` days before it.

        Without a delay the event itself is in the window, as are others of its very second.

        Args:
            days: how long the window is.
            amounts: (rows,), NaN counts as 0; None: 1 each.
            delay: in days.
        """
        amounts = np.ones(len(self.codes)) if amounts is None else np.nan_to_num(amounts)
        order = np.flatnonzero(self.kept)
        order = order[np.argsort(self._places(0.0)[order], kind="stable")]
        line = self._places(0.0)[order]
        until = np.append(0.0, np.cumsum(amounts[order]))
        last = np.searchsorted(line, self._places(delay * DAY), "right")
        first = np.searchsorted(line, self._places((delay + days) * DAY), "right")
        return until[last] - until[first]

    def _places(self, back: float) -> np.ndarray:
        """Where on one line an event lies, moved back by so many seconds but not beyond its entity's first."""
        since = self.seconds - self.seconds.min()
        return self.codes * (since.max() + 2.0) + np.maximum(since - back, -1.0)


@dataclass(frozen=True, eq=False)
class Running:
    """Of each entity's earlier kept events, each (rows, V): what a rule compares an event with; NaN where nothing is.

    Attributes:
        count: how many values there are.
        mean: their mean.
        variance: their variance.
        median: of the last 50.
        deviation: median absolute deviation of the last 50 from what their own median was.
    """

    count: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    median: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, codes: np.ndarray, seconds: np.ndarray, kept: np.ndarray, values: np.ndarray) -> Running:
        """Running figures of values (rows, V), NaN where missing."""
        order = np.lexsort((seconds, codes))
        seen = np.where(kept[:, None], values, np.nan)[order]
        names = [str(number) for number in range(values.shape[1])]
        frame = pl.DataFrame(seen, schema=names).fill_nan(None).with_columns(entity=pl.Series(codes[order]))

        def before(column: pl.Expr) -> pl.Expr:
            """The sum over the entity's earlier events."""
            return (column.fill_null(0.0).cum_sum() - column.fill_null(0.0)).over("entity")

        def median(column: pl.Expr) -> pl.Expr:
            return column.shift(1).rolling_median(MEMORY, min_samples=1).over("entity")

        def back(frame: pl.DataFrame) -> np.ndarray:
            result = np.empty(values.shape)
            result[order] = frame.fill_null(float("nan")).to_numpy()
            return result

        count = back(frame.select(before(pl.col(name).is_not_null().cast(pl.Float64)) for name in names))
        total = back(frame.select(before(pl.col(name)) for name in names))
        square = back(frame.select(before(pl.col(name) ** 2) for name in names))
        centre = frame.select(median(pl.col(name)) for name in names)
        away = frame.select("entity", *((pl.col(name) - centre[name]).abs() for name in names))
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = total / count
            variance = np.maximum(square / count - mean**2, 0.0)
        return cls(count, mean, variance, back(centre), back(away.select(median(pl.col(name)) for name in names)))


def since_last(codes: np.ndarray, seconds: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Seconds since the entity's latest kept event, NaN where there is none: (rows,)."""
    order = np.lexsort((seconds, codes))
    when = pl.DataFrame({"entity": codes[order], "at": np.where(kept, seconds, np.nan)[order]}).fill_nan(None)
    last = when.select(pl.col("at").shift(1).forward_fill().over("entity"))["at"].fill_null(float("nan")).to_numpy()
    gaps = np.empty(len(codes))
    gaps[order] = seconds[order] - last
    return gaps
