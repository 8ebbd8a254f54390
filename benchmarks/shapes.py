"""What is measured on: sizes, inputs, which steps are observed, and the arithmetic in them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Shape(NamedTuple):
    """Sizes of a batch and a layer.

    `calls` is how many steps one timed run streams, state carried from call to call; 0: the run is one whole sequence.
    """

    samples: int
    steps: int
    sites: tuple[int, ...]
    channels: int
    filters: int
    kernel: int
    calls: int = 0

    @property
    def rank(self) -> int:
        return len(self.sites)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(N, T, *S, C)."""
        return (self.samples, self.steps, *self.sites, self.channels)

    @property
    def state_shape(self) -> tuple[int, ...]:
        """(N, *S, F)."""
        return (self.samples, *self.sites, self.filters)

    def __str__(self) -> str:
        sites = "x".join(map(str, self.sites))
        return (
            f"N{self.samples} T{self.steps} {'L' if self.rank == 1 else ''}{sites} "
            f"C{self.channels} F{self.filters} k{self.kernel}"
        )


SHAPES = {
    "S0": Shape(64, 100, (1,), 16, 128, 1),  # what nn.LSTM computes
    "S1": Shape(32, 10, (3,), 1, 64, 3),
    "S2": Shape(32, 50, (32,), 8, 64, 3),
    "S3": Shape(64, 100, (64,), 16, 128, 5),
    "S5": Shape(8, 20, (32, 32), 16, 64, 3),
    "S6": Shape(1, 1, (32,), 8, 64, 3, calls=100),
}
RAGGED_SHARE = 0.44


def make_input(shape: Shape) -> np.ndarray:
    """float32 (N, T, *S, C)."""
    return np.random.default_rng(0).normal(size=shape.input_shape).astype(np.float32)


def make_mask(shape: Shape, observed: str) -> np.ndarray | None:
    """bool (N, T), or None for "full".

    Args:
        shape: of the batch.
        observed: "full"; "ragged": rows of drawn lengths padded on the right; or a percentage of steps, at random.
    """
    rng = np.random.default_rng(1)
    if observed == "full":
        return None
    if observed == "ragged":
        # Lengths 1 to T, spread so that their mean is the wanted share: the mean of u^a over (0, 1) is 1 / (a + 1).
        ranks = np.arange(1, shape.samples + 1) / shape.samples
        lengths = np.ceil(shape.steps * ranks ** (1 / RAGGED_SHARE - 1))
        return np.arange(shape.steps) < rng.permutation(lengths)[:, None]
    return rng.random((shape.samples, shape.steps)) < float(observed.removesuffix("%")) / 100


def flops(shape: Shape, mode: str, *, only_inside: bool = False) -> float:
    """Floating-point operations of both convolutions with every step observed, a multiply-add counted as two.

    Args:
        shape: of batch and layer.
        mode: "forward", or "train": three times as much (outputs, gradients of what is read, gradients of the weights).
        only_inside: leave out taps that lie outside the array, where "same" padding reads zeros.
    """
    if only_inside:
        reach = (shape.kernel - 1) // 2
        pairs = math.prod(sum(min(s + reach, n - 1) - max(s - reach, 0) + 1 for s in range(n)) for n in shape.sites)
    else:
        pairs = math.prod(shape.sites) * shape.kernel**shape.rank
    once = 2 * 4 * shape.filters * (shape.channels + shape.filters) * shape.samples * shape.steps * pairs
    return once * (3 if mode == "train" else 1)
