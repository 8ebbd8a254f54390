"""What the kernel was built to reach, and what it reached."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from benchmarks.catalogue import (
    BF16_GATES,
    FLAX,
    FROZEN,
    KERAS,
    KERAS_JAX,
    KERAS_XLA,
    KERNEL,
    LOOP,
    OURS_ON_JAX,
    PURE,
    RAGGED_SHAPES,
    RECOMPUTE,
    SEQUENCES,
)
from benchmarks.results import Results
from benchmarks.shapes import SHAPES, flops

GRAPH_AND_XLA = (KERAS, KERAS_XLA)

# gapcell.torch on its kernel: (shape, mode, others, must, stretch).
TIMES_FASTER = (
    ("S1", "train", (LOOP,), 4, 7),
    ("S1", "train", GRAPH_AND_XLA, 10, 18),
    ("S1", "train", (KERAS_JAX,), 12, 25),
    ("S2", "forward", (LOOP,), 2.2, 2.8),
    ("S2", "forward", GRAPH_AND_XLA, 2.8, 3.6),
    ("S2", "train", (LOOP,), 1.8, 2.4),
    ("S2", "train", GRAPH_AND_XLA, 2.4, 3.3),
    ("S3", "forward", GRAPH_AND_XLA, 1.1, 1.3),
    ("S3", "train", GRAPH_AND_XLA, 1.0, 1.2),
    ("S5", "forward", GRAPH_AND_XLA, 1.1, 1.3),
    ("S5", "train", GRAPH_AND_XLA, 1.0, 1.2),
)
JAX_TIMES_FASTER = (("S1", KERAS_JAX, 12, 25), ("S2", KERAS_JAX, 35, 40), ("S2", FLAX, 20, 40))
SHARE_OF_PEAK = {
    "forward": ({"S2": 0.80, "S3": 0.80, "S5": 0.80}, 0.92),
    "train": ({"S2": 0.70, "S3": 0.75, "S5": 0.75}, 0.85),
}
QUARTER = {"forward": (0.32, 0.27), "train": (0.40, 0.30)}
RAGGED = {"S2": (4, 8), "S3": (2, 2.5)}
MEMORY = {KERNEL: (0.70, 0.50), BF16_GATES: (0.55, 0.40), RECOMPUTE: (0.40, 0.30)}
STREAMING = (35, 22)  # microseconds
WITHOUT_KERNEL = (1.1, 1.5)
WITHOUT_KERNEL_ANYWHERE = 0.85


class Goal(NamedTuple):
    """One figure to reach.

    `kind` is "times" (at least so many times as fast), "share" (at least), "cost" (a share, at most) or "us" (at most);
    `reached` is None where it was not measured.
    """

    what: str
    kind: Literal["times", "share", "cost", "us"]
    must: float
    stretch: float | None
    reached: float | None

    def holds(self, value: float | None) -> bool | None:
        """Whether what was reached is as good as a value, to the two digits that are shown."""
        if value is None or self.reached is None:
            return None
        reached = round(self.reached, 2)
        return reached >= value if self.kind in ("times", "share") else reached <= value


def goals(results: Results) -> list[Goal]:
    return [
        *_faster(results),
        *_shares_of_peak(results),
        *_quarter(results),
        *_ragged(results),
        *_memory(results),
        *_streaming(results),
        *_without_kernel(results),
    ]


def share_of_peak(results: Results, system: str, shape: str, mode: str, *, only_inside: bool = False) -> float | None:
    """Of what all cores reach together in multiply-adds alone, measured before the shape was."""
    milliseconds = results.ms(system, shape, mode)
    if milliseconds is None or results.state(shape)["peak_gflops"] is None:
        return None
    counted = flops(SHAPES[shape], mode, only_inside=only_inside)
    return counted / (1e-3 * milliseconds) / (1e9 * results.state(shape)["peak_gflops"][-1])


def ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or below is None else above / below


def _faster(results: Results) -> Iterator[Goal]:
    for shape, mode, others, must, stretch in TIMES_FASTER:
        for other in others:
            reached = ratio(results.ms(other, shape, mode), results.ms(KERNEL, shape, mode))
            yield Goal(f"{shape} {mode}, against {other}", "times", must, stretch, reached)
    for shape, other, must, stretch in JAX_TIMES_FASTER:
        reached = ratio(results.ms(other, shape, "train"), results.ms(OURS_ON_JAX, shape, "train"))
        yield Goal(f"{shape} train, {OURS_ON_JAX} against {other}", "times", must, stretch, reached)


def _shares_of_peak(results: Results) -> Iterator[Goal]:
    for mode, (musts, stretch) in SHARE_OF_PEAK.items():
        for shape, must in musts.items():
            reached = share_of_peak(results, KERNEL, shape, mode)
            yield Goal(f"{shape} {mode}, share of the multiply-add peak", "share", must, stretch, reached)


def _quarter(results: Results) -> Iterator[Goal]:
    for mode, (must, stretch) in QUARTER.items():
        for shape in SEQUENCES:
            reached = ratio(results.ms(KERNEL, shape, mode, "25%"), results.ms(KERNEL, shape, mode))
            yield Goal(f"{shape} {mode}, cost of 25 % observed against all", "cost", must, stretch, reached)


def _ragged(results: Results) -> Iterator[Goal]:
    for shape in RAGGED_SHAPES:
        for other in GRAPH_AND_XLA:
            reached = ratio(results.ms(other, shape, "train", "ragged"), results.ms(KERNEL, shape, "train", "ragged"))
            yield Goal(f"{shape} train, ragged, against {other} with a mask", "times", *RAGGED[shape], reached)


def _memory(results: Results) -> Iterator[Goal]:
    for system, (must, stretch) in MEMORY.items():
        reached = ratio(results.memory(system), results.memory(LOOP))
        yield Goal(f"S3 training memory, {system}, against {LOOP}", "cost", must, stretch, reached)


def _streaming(results: Results) -> Iterator[Goal]:
    for system in (FROZEN, KERNEL):
        milliseconds = results.ms(system, "S6", "forward")
        reached = None if milliseconds is None else 1e3 * milliseconds
        yield Goal(f"S6 step, {system}", "us", *STREAMING, reached)


def _without_kernel(results: Results) -> Iterator[Goal]:
    must, stretch = WITHOUT_KERNEL
    factors = {
        (shape, mode): ratio(results.ms(LOOP, shape, mode), results.ms(PURE, shape, mode))
        for shape in SEQUENCES
        for mode in ("forward", "train")
    }
    yield Goal(f"S2 train without the kernel, against {LOOP}", "times", must, stretch, factors["S2", "train"])
    measured = [(value, *where) for where, value in factors.items() if value is not None]
    lowest, *where = min(measured, default=(None, "", ""))
    what = f"worst case without the kernel, against {LOOP} ({' '.join(where)})"
    yield Goal(what, "times", WITHOUT_KERNEL_ANYWHERE, None, lowest)
