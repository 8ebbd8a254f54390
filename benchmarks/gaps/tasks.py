"""What is forecast: the next frame of moving digits, and the next day of a real series with gaps.

Every task is a batch of sequences (N, T, 1, *S), NaN where a value is not known even to the judge, of which a share of
sites or of whole steps is then taken away.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor

DATA = Path(os.environ.get("GAPCELL_DATA", Path(__file__).parents[3] / "shared" / "data"))
SERIES = "realKnownCause/ambient_temperature_system_failure.csv"
FRAME, DIGIT, FRAMES = 16, 8, 10  # pixels of a side, pixels of a digit's side, frames of a sequence
DAYS, HOURS = 12, 24  # of a sequence of temperatures


class Sequences(NamedTuple):
    """Sequences to learn from and to be judged by, (N, T, 1, *S) each."""

    train: Tensor
    test: Tensor


class Task(NamedTuple):
    """A task: its site axes, how its sequences are drawn from a seed, and how long to train."""

    rank: int
    draw: Callable[[int], Sequences]
    epochs: int


def moving_digits(seed: int) -> Sequences:
    """Handwritten digits that drift through a frame and bounce off its edges, values 0 to 1."""
    digits = load_digits().images.astype(np.float32) / 16
    random = np.random.default_rng(seed)
    # No digit of the test is seen in training.
    order = np.random.default_rng(0).permutation(len(digits))
    drawn = (clips(digits[order[:1200]], 128, random), clips(digits[order[1200:]], 96, random))
    return Sequences(*map(torch.from_numpy, drawn))


def clips(digits: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """So many sequences of one digit each: (count, FRAMES, 1, FRAME, FRAME)."""
    room = FRAME - DIGIT
    frames = np.zeros((count, FRAMES, 1, FRAME, FRAME), np.float32)
    for clip in frames:
        digit = digits[random.integers(len(digits))]
        place, speed = random.uniform(0, room, 2), random.uniform(0.7, 2.2, 2) * random.choice([-1, 1], 2)
        for frame in clip:
            # A reflected straight line: the edge is where the way turns.
            row, column = np.rint(np.abs((place + room) % (2 * room) - room)).astype(int)
            frame[0, row : row + DIGIT, column : column + DIGIT] = digit
            place = place + speed
    return frames


def temperatures(seed: int) -> Sequences:
    """Hourly room temperatures, one step a day and one site an hour; the last third of the days is the test.

    Of the series' hours 8 % are missing from the start.
    """
    del seed  # the series is what it is
    table = pl.read_parquet(DATA / "nab.parquet").filter(pl.col("series").cast(pl.String) == SERIES)
    hour = table["timestamp"].dt.truncate("1h")
    first = hour.dt.truncate("1d").min()
    place = ((hour - first).dt.total_hours()).to_numpy()
    days = int(place.max()) // HOURS + 1
    values = np.full(days * HOURS, np.nan, np.float32)
    values[place] = table["value"].to_numpy()
    split = days * 2 // 3 * HOURS
    known = values[:split]
    values = ((values - np.nanmean(known)) / np.nanstd(known)).reshape(days, 1, HOURS)
    windows = np.lib.stride_tricks.sliding_window_view(values, DAYS, axis=0).transpose(0, 3, 1, 2)
    last = split // HOURS - DAYS  # of the sequences that end before the test begins
    return Sequences(*(torch.from_numpy(part.copy()) for part in (windows[: last + 1], windows[last + DAYS :: 3])))


TASKS = {"digits": Task(2, moving_digits, 14), "temperatures": Task(1, temperatures, 15)}


def observed(x: Tensor, removal: str, share: float, seed: int) -> Tensor:
    """What is left after a share of sites or of steps is taken away, bool (N, T, *S)."""
    generator = torch.Generator().manual_seed(seed)
    known = ~x[:, :, 0].isnan()
    kept = torch.rand(known.shape if removal == "sites" else known.shape[:2], generator=generator) >= share
    return known & kept.reshape(*kept.shape, *(1,) * (known.ndim - kept.ndim))
