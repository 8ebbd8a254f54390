"""How many events a second go through SQLite, how long one event takes, and whether memory stays flat."""

from __future__ import annotations

import gc
import json
import os
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.stream import faults
from gapcell.detect import Detector
from gapcell.stream import Counts, FileSource, FileTarget, Policy, SQLiteStore, run
from gapcell.stream.sources import Line

POLICY = Policy(id_column="id", format="jsonl")
PAGE = os.sysconf("SC_PAGE_SIZE")


def throughput(detector: Detector, frame: pl.DataFrame, folder: Path) -> dict[str, Any]:
    """Events from a file through a new store to a file."""
    source, scores = folder / "through.jsonl", folder / "through-scores.jsonl"
    frame.write_ndjson(source)
    store = folder / "through.sqlite"
    start = time.perf_counter()
    counts = run(detector, SQLiteStore(store), FileSource(source), FileTarget(scores), POLICY)
    seconds = time.perf_counter() - start
    if counts.events != frame.height:
        raise RuntimeError(f"{counts.events} of {frame.height} events were delivered")
    kept = sum(path.stat().st_size for path in folder.glob("through.sqlite*"))
    rate, entities = frame.height / seconds, frame["customer"].n_unique()
    return {"events": frame.height, "entities": entities, "events_per_second": rate, "store_mib": kept / 2**20}


def latency(detector: Detector, frame: pl.DataFrame, events: int) -> dict[str, Any]:
    """`Detector.step` with one event at a time, in milliseconds, from a state of all entities."""
    state, _ = detector.step(None, frame[:-events])
    times = []
    for row in range(frame.height - events, frame.height):
        one = frame[row : row + 1]
        start = time.perf_counter()
        state, _ = detector.step(state, one)
        times.append(1000 * (time.perf_counter() - start))
    middle, most = np.quantile(times, [0.5, 0.99]).tolist()
    return {"steps": events, "entities": len(state), "median_ms": middle, "p99_ms": most,
            "bytes_an_entity": len(state.to_bytes()) / len(state)}  # fmt: skip


class Endless:
    """A source of as many events as are asked for, which never are in memory together.

    Args:
        events: to give.
        entities: among which they go round.
    """

    def __init__(self, events: int, entities: int) -> None:
        self.events, self.entities = events, entities

    def groups(self, most: int, wait: float, stop: threading.Event) -> Iterator[list[Line]]:
        """See `gapcell.stream.Source`."""
        draws = np.random.default_rng(0)
        for first in range(0, self.events, most):
            numbers = range(first, min(first + most, self.events))
            amounts = np.exp(draws.normal(3, 1, len(numbers))).round(2).tolist()
            when = np.datetime_as_string(np.datetime64("2024-01-01T00:00:00") + np.array(numbers))
            yield [
                (0, json.dumps({"id": f"s{number}", "customer": f"c{number % self.entities}", "time": str(moment),
                                "amount": amount, "category": "food", "online": False}).encode())
                for number, amount, moment in zip(numbers, amounts, when, strict=True)
            ]  # fmt: skip


def soak(detector: Detector, folder: Path, events: int, entities: int) -> dict[str, Any]:
    """Resident memory in MiB after each tenth of a long stream, in this process."""
    seen: list[float] = []

    def watch(counts: Counts) -> None:
        if counts.events >= (len(seen) + 1) * events / 10:
            gc.collect()
            seen.append(resident())

    start = time.perf_counter()
    counts = run(detector, SQLiteStore(folder / "soak.sqlite"), Endless(events, entities),
                 FileTarget(folder / "soak.jsonl"), POLICY, watch=watch)  # fmt: skip
    seconds = time.perf_counter() - start
    return {"events": counts.events, "entities": entities, "events_per_second": events / seconds, "resident_mib": seen,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}  # fmt: skip


def resident() -> float:
    """MiB that are resident now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE / 2**20


def table(customers: int, days: int) -> pl.DataFrame:
    """The events that are timed."""
    return faults.simulated(customers, days)
