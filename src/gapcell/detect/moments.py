"""What a series' values were like so far: running moments, which a recurrent state keeps badly over many events."""

from __future__ import annotations

import numpy as np
import polars as pl

PRIOR = 3.0  # events' worth of the population, whose scaled values have mean 0 and variance 1
LONG = 3.0  # brings the logarithm of a count to order one
MOMENTS = 3  # numbers for each feature


def running_moments(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Mean, deviation and number of the observed values up to and with each place: (places, 3 F) float32.

    Sums begin anew in every series, so that a series' moments do not depend on those beside it.

    Args:
        values: (places, F) float64 scaled values, NaN where missing.
        starts: (series + 1,) where each series begins.
    """
    names = [str(number) for number in range(values.shape[1])]
    there = ~np.isnan(values)
    near = np.clip(np.where(there, values, 0.0), -3.0, 3.0)
    series = np.repeat(np.arange(len(starts) - 1), np.diff(starts))

    def summed(terms: np.ndarray) -> np.ndarray:
        frame = pl.DataFrame(terms, schema=names).with_columns(series=series)
        return frame.select(pl.col(name).cum_sum().over("series") for name in names).to_numpy()

    if not names or not len(values):
        return np.zeros((len(values), MOMENTS * len(names)), dtype=np.float32)
    count, total, squares = summed(there.astype(float)), summed(near), summed(near * near)
    mean = total / (count + PRIOR)
    spread = np.sqrt(np.maximum((squares + PRIOR) / (count + PRIOR) - mean * mean, 0.0))
    return np.concatenate([mean, spread - 1.0, np.log1p(count) / LONG], 1).astype(np.float32)
