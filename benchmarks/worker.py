"""A process that times what it is told: `python -m benchmarks.worker torch`, tasks in JSON lines in, answers out."""

from __future__ import annotations

import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable

from benchmarks.catalogue import Task
from benchmarks.shapes import SHAPES


def milliseconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def median_of_slice(run: Callable[[], object], seconds: float) -> float:
    """Milliseconds of a run: one that fills the slice of time, or the median of those that fill it together.

    The first of short runs is not counted: caches, clocks and sleeping threads are not its own.
    """
    first = milliseconds(run)
    if first >= 1e3 * seconds:
        return first
    end = time.perf_counter() + seconds
    taken = [milliseconds(run)]
    while time.perf_counter() < end:
        taken.append(milliseconds(run))
    return statistics.median(taken)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    systems = importlib.import_module(f"benchmarks.systems.{sys.argv[1]}").SYSTEMS
    runs: dict[Task, Callable[[], object]] = {}
    for line in sys.stdin:
        words = json.loads(line)
        task = Task(*words["task"])
        if any((task.shape, task.mode) != (other.shape, other.mode) for other in runs):
            runs.clear()
        try:
            shape = SHAPES[task.shape]
            run = runs.get(task) or systems[task.system](shape, task.observed, task.mode)
            taken = median_of_slice(run, words["seconds"]) / max(shape.calls, 1)
        except Exception as error:  # one system that cannot run must not end the others' measuring
            answers.write(json.dumps({"error": f"{type(error).__name__}: {error}"[:500]}) + "\n")
        else:
            runs[task] = run
            answers.write(json.dumps({"ms": taken}) + "\n")


if __name__ == "__main__":
    main()
