"""How every benchmark here times: systems in turn within one run, the first round not counted, the median kept."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable

# name: (N, T, sites, C, F, kernel)
SHAPES = {
    "S1": (32, 10, (3,), 1, 64, 3),
    "S2": (32, 50, (32,), 8, 64, 3),
    "S3": (64, 100, (64,), 16, 128, 5),
    "S5": (8, 20, (32, 32), 16, 64, 3),
}


def measure(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each system, timed in turn after one round that does not count."""
    taken: dict[str, list[float]] = {system: [] for system in runs}
    for round_ in range(repeats + 1):
        for system, run in runs.items():
            start = time.perf_counter()
            run()
            if round_:
                taken[system].append(1e3 * (time.perf_counter() - start))
    return {system: round(statistics.median(values), 3) for system, values in taken.items()}


def surroundings() -> dict[str, object]:
    """What the numbers depend on beside the systems."""
    return {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "load": round(os.getloadavg()[0], 2)}
