"""Kills at random moments, full disks and a long soak, and what is left of the scores."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import polars as pl

from benchmarks.stream.worker import EVENTS, MODEL, PROBLEM, SCORES, STORE
from gapcell.detect import Detector, FitOptions, fit, read_table
from gapcell.detect.simulate import Simulation

VALUES = ["amount", "category", "online"]
OPTIONS = FitOptions(epochs=2, encoder="convlstm", hidden_size=16, learning_rate=0.01)
SOONEST, LATEST = 0.01, 0.2  # seconds after which a child is killed


def simulated(customers: int, days: int, seed: int = 0) -> pl.DataFrame:
    """Card transactions in the order of their times, with ids."""
    frame = Simulation(customers, days, seed).frame().sort("time")
    return frame.select("customer", "time", *VALUES).with_columns(id=pl.format("e{}", pl.int_range(pl.len())))


def fitted(frame: pl.DataFrame) -> Detector:
    """A detector of them."""
    return fit(read_table(frame, entity="customer", time="time", values=VALUES), OPTIONS)


@contextmanager
def worker(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The process that runs the stream of a folder in its children."""
    command = [sys.executable, "-m", "benchmarks.stream.worker", str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        pipe(process.stdin).close()
        process.wait()
        pipe(process.stdout).close()


def pipe(end: IO[str] | None) -> IO[str]:
    if end is None:
        raise RuntimeError("the worker was started without pipes")
    return end


def prepared(folder: Path, frame: pl.DataFrame, detector: Detector) -> None:
    """Put the model and the events where the worker looks for them."""
    detector.save(folder / MODEL)
    frame.write_ndjson(folder / EVENTS)


def once(process: subprocess.Popen[str], *, kill_after: float | None = None, limit: int | None = None) -> int:
    """Run the stream once, to its end or to a kill; the status that its process ended with."""
    pipe(process.stdin).write(json.dumps({"kill_after": kill_after, "limit": limit}) + "\n")
    pipe(process.stdin).flush()
    return int(pipe(process.stdout).readline())


def killed(process: subprocess.Popen[str], folder: Path, kills: int, seed: int) -> int:
    """Run the stream of a worker's folder, killing it again and again; how many of the kills came before the end."""
    draws = random.Random(seed)  # noqa: S311  # not for secrets
    hit = 0
    for _ in range(kills):
        hit += once(process, kill_after=draws.uniform(SOONEST, LATEST)) == signal.SIGKILL
    if status := once(process):
        raise RuntimeError(f"the last run ended with {status}: {problem(folder)}")
    return hit


def starved(process: subprocess.Popen[str], folder: Path, limits: Sequence[int]) -> list[str]:
    """Run the stream of a worker's folder with room for so many bytes a file alone, then with room; what was said."""
    said = []
    for limit in limits:
        if not once(process, limit=limit):
            raise RuntimeError(f"nothing was refused at {limit} bytes")
        said.append(problem(folder))
    if once(process):
        raise RuntimeError(problem(folder))
    return said


def problem(folder: Path) -> str:
    """What the last run that was refused said."""
    path = folder / PROBLEM
    return path.read_text(encoding="utf-8") if path.exists() else "nothing was said"


def scores(folder: Path) -> list[dict[str, Any]]:
    """What was delivered; every line must be whole."""
    return [json.loads(line) for line in (folder / SCORES).read_bytes().splitlines()]


def fresh(folder: Path) -> None:
    """Forget what was scored."""
    for path in (SCORES, STORE, STORE + "-wal", STORE + "-shm", PROBLEM):
        (folder / path).unlink(missing_ok=True)


def wrong(folder: Path, expected: Sequence[dict[str, Any]]) -> list[str]:
    """What is wrong with what was delivered: events lost, doubled, in another order, or scored otherwise."""
    found, wanted = scores(folder), [score["id"] for score in expected]
    ids = [score["id"] for score in found]
    problems = []
    if lost := set(wanted) - set(ids):
        problems.append(f"{len(lost)} events were lost")
    if len(ids) > len(set(ids)):
        problems.append(f"{len(ids) - len(set(ids))} events came twice")
    if not problems and ids != wanted:
        problems.append("the order is another")
    known = {score["id"]: score["score"] for score in expected}
    if any(not alike(score["score"], known.get(score["id"])) for score in found):
        problems.append("scores are others")
    return problems


def alike(one: float | None, other: float | None) -> bool:
    """The same up to what a batch changes in float32."""
    if one is None or other is None:
        return one is other
    return abs(one - other) <= 1e-4 * max(1.0, abs(other))
