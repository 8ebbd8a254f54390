"""Who is compared with whom, and where somebody else is ahead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.catalogue import KERNEL, MEMORY, PURE, SYSTEMS
from benchmarks.results import Results
from benchmarks.shapes import SHAPES


class Comparison(NamedTuple):
    """One figure of somebody else's beside one of ours; `unit` is "ms" or "MB"."""

    what: str
    other: str
    others: float
    ours: str
    own: float
    unit: str = "ms"

    @property
    def factor(self) -> float:
        """Above 1: ours is faster, or smaller."""
        return self.others / self.own


def counterparts(system: str) -> tuple[str, ...]:
    """Ours that a system is compared with: of its own framework, the compiled kernel, and what runs without that."""
    if not SYSTEMS[system].ours:
        return ()
    found = (SYSTEMS[system].ours, KERNEL)
    return tuple(dict.fromkeys((*found, PURE) if found[0] == KERNEL else found))


def comparisons(results: Results) -> Iterator[Comparison]:
    """All of them: times by shape and mode, on full and ragged batches, and memory."""
    for other in SYSTEMS:
        for ours in counterparts(other):
            for shape in SHAPES:
                for mode in SYSTEMS[other].modes:
                    for observed in ("full", "ragged"):
                        pair = [results.ms(system, shape, mode, observed) for system in (other, ours)]
                        if None not in pair:
                            what = f"{shape} {mode}" + (", ragged" if observed == "ragged" else "")
                            yield Comparison(what, other, pair[0], ours, pair[1])
    for other in MEMORY:
        for ours in counterparts(other):
            pair = [results.memory(system) for system in (other, ours)]
            if None not in pair:
                yield Comparison("memory of a training step", other, pair[0], ours, pair[1], "MB")


def others_ahead(results: Results) -> list[Comparison]:
    """Where a factor is below 1, the largest lead first."""
    return sorted((c for c in comparisons(results) if c.factor < 1), key=lambda c: c.factor)
