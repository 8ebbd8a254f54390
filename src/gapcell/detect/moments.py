"""What a series' values were like so far: running moments, which a recurrent state keeps badly over many events."""

from __future__ import annotations

import numpy as np
import polars as pl

PRIOR = 3.0  # events' worth of the population, whose scaled values have mean 0 and variance 1
LONG = 3.0  # brings the logarithm of a count to order one
MOMENTS = 3  # numbers for each feature
PARTS = 3  # likewise sums, of which the moments are made: how many, their sum, and that of their squares


def running_moments(
    values: np.ndarray, starts: np.ndarray, earlier: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean, deviation and number of the observed values up to and with each place.

    Sums begin anew in every series, so that a series' moments do not depend on those beside it.

    Args:
        values: (places, F) float64 scaled values, NaN where missing.
        starts: (series + 1,) where each series begins; none is empty.
        earlier: (series, 3, F) float64, the sums of what came before; None for nothing.

    Returns:
        The moments, (places, 3 F) float32, and the sums with the last place of each series, (series, 3, F).
    """
    series, features = len(starts) - 1, values.shape[1]
    if not features or not len(values):
        return np.zeros((len(values), MOMENTS * features), np.float32), np.zeros((series, PARTS, features))
    there = ~np.isnan(values)
    near = np.clip(np.where(there, values, 0.0), -3.0, 3.0)
    terms = np.stack([there.astype(float), near, near * near], 1)
    if earlier is not None:
        terms[starts[:-1]] += earlier  # so that a sum is taken in the same order however a series is cut
    sums = cumulative(terms, starts)
    count, total, squares = (sums[:, part] for part in range(PARTS))
    mean = total / (count + PRIOR)
    spread = np.sqrt(np.maximum((squares + PRIOR) / (count + PRIOR) - mean * mean, 0.0))
    moments = np.concatenate([mean, spread - 1.0, np.log1p(count) / LONG], 1).astype(np.float32)
    return moments, sums[starts[1:] - 1]


def cumulative(terms: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The sums (places, ...) of terms (places, ...) up to and with each place, anew in every series."""
    series = len(starts) - 1
    if len(terms) == series:  # a place each, as where events come one by one
        return terms
    flat = terms.reshape(len(terms), -1)
    names = [str(number) for number in range(flat.shape[1])]
    frame = pl.DataFrame(flat, schema=names).with_columns(series=np.repeat(np.arange(series), np.diff(starts)))
    sums = frame.select(pl.col(name).cum_sum().over("series") for name in names)
    return sums.to_numpy().reshape(terms.shape)
