"""Memory of one training step in a fresh process: the peak of the resident set above what it was before the step.

`python -m benchmarks.memory "plain PyTorch loop" S3` prints it in bytes. Linux only: /proc has the peak.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from benchmarks.catalogue import SYSTEMS
from benchmarks.interleaved import TaskError, start
from benchmarks.shapes import SHAPES

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # proc(5)


def step_megabytes(system: str, shape: str) -> float:
    """Of a step in a process of its own.

    Raises:
        TaskError: the system cannot run.
    """
    process = start(["benchmarks.memory", system, shape], SYSTEMS[system].worker)
    printed, _ = process.communicate()
    if process.returncode:
        raise TaskError(f"the process ended with {process.returncode}")
    return round(int(printed.split()[-1]) / 1e6, 1)


def resident(field: str) -> int:
    """Bytes: VmRSS now, VmHWM the highest since the reset."""
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def main() -> None:
    system, shape = sys.argv[1:]
    make = importlib.import_module(f"benchmarks.systems.{SYSTEMS[system].worker}").SYSTEMS[system]
    make(SHAPES["S1"], "full", "train")()  # loads code, starts threads
    run = make(SHAPES[shape], "full", "train")
    CLEAR.write_text(RESET_PEAK, encoding="utf-8")
    before = resident("VmRSS")
    run()
    print(resident("VmHWM") - before)


if __name__ == "__main__":
    main()
