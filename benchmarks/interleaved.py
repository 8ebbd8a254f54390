"""Times systems in turn within one run, those of different frameworks in processes of their own.

A round times every system once, and rounds alternate in direction, so that a change of the machine's pace, and what the
neighbour before leaves in the caches, meets all alike. While one process measures, the others wait for their next line.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.catalogue import ENVIRONMENT, SYSTEMS, Task

ROOT = Path(__file__).parents[1]
SLICE_SECONDS = 0.1  # that a system gets in a round, or one run if it is longer
PAUSE_SECONDS = 0.03  # OpenMP's threads (PyTorch's) look for work for some milliseconds before they sleep
SLOW_MS, SLOW_ROUNDS = 1000.0, 3

Figure = dict[str, float]


class TaskError(RuntimeError):
    """A system could not be timed."""


class Worker:
    """One process of `benchmarks.worker`, started when it is first asked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.process: subprocess.Popen[str] | None = None

    def ask(self, task: Task, seconds: float) -> float:
        """Milliseconds.

        Raises:
            TaskError: the system cannot run, or the process has ended; the next question starts another.
        """
        process = self.process = self.process or start(["benchmarks.worker", self.name], self.name)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps({"task": task, "seconds": seconds}) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self.end()
            raise TaskError(f"the process ended with {process.returncode}")
        answer = json.loads(answer)
        if "error" in answer:
            raise TaskError(answer["error"])
        return answer["ms"]

    def end(self) -> None:
        """Wait until the process has ended; it does when its input is closed."""
        if self.process is not None:
            self.process.communicate()
            self.process = None


def start(module: list[str], worker: str) -> subprocess.Popen[str]:
    """A Python process with the environment of a worker, all cores its own."""
    threads = str(os.cpu_count())
    environment = os.environ | ENVIRONMENT[worker] | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    command = [sys.executable, "-m", *module]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@contextlib.contextmanager
def workers() -> Iterator[dict[str, Worker]]:
    """A process for each framework."""
    found = {name: Worker(name) for name in ENVIRONMENT}
    try:
        yield found
    finally:
        for worker in found.values():
            worker.end()


def measure(processes: dict[str, Worker], tasks: Sequence[Task], rounds: int) -> tuple[dict[Task, Figure], list[str]]:
    """Time tasks in turn, after one round that does not count.

    Returns:
        of each task the median of its rounds, the lowest, the highest and how many; and what could not be timed.
    """
    taken: dict[Task, list[float]] = {task: [] for task in tasks}
    failed: list[str] = []
    for number in range(rounds + 1):
        turns = [task for task in taken if len(taken[task]) < needed(taken[task], rounds)]
        for task in turns if number % 2 else turns[::-1]:
            time.sleep(PAUSE_SECONDS)
            try:
                milliseconds = processes[SYSTEMS[task.system].worker].ask(task, SLICE_SECONDS if number else 0)
            except TaskError as error:
                del taken[task]
                failed.append(f"{task}: {error}")
                print(f"FAILED {failed[-1]}", flush=True)
                continue
            if number:
                taken[task].append(milliseconds)
            print(f"{number}/{rounds} {task}: {milliseconds:.3f} ms", flush=True)
    return {task: summary(values) for task, values in taken.items()}, failed


def needed(values: list[float], rounds: int) -> int:
    """How many rounds time a system whose figures so far are these."""
    return min(rounds, SLOW_ROUNDS) if values and values[0] > SLOW_MS else rounds


def summary(values: list[float]) -> Figure:
    return {
        "ms": round(statistics.median(values), 4),
        "lowest": round(min(values), 4),
        "highest": round(max(values), 4),
        "rounds": len(values),
    }
