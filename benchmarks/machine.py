"""What the figures depend on beside the systems: the machine, what it can do, and the versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import gapcell
from gapcell import native

PACKAGES = ("numpy", "torch", "jax", "flax", "keras", "tensorflow")
STAT = Path("/proc/stat")
ARRAY_MIB = 256  # each of three arrays: several times a last-level cache


def versions() -> dict[str, str]:
    distributions = importlib.metadata.packages_distributions()
    found = {"gapcell": gapcell.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        if name in distributions:
            found[name] = importlib.metadata.version(distributions[name][0])
    return found


def machine() -> dict[str, object]:
    return {"cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.system(), "kernel": native.active().name}


def cpu_name() -> str:
    """The model as the system names it, or the architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({platform.machine()})" if names else platform.machine()


def state() -> dict[str, object]:
    """What a shape's figures depend on, just before it is measured.

    "load" of the system; "busy", the share of the cores' time that other programs take; what one core and all cores
    reach: "peak_gflops" in fp32 multiply-adds, None without the kernel, which measures it, and "bandwidth_gb_s".
    """
    busy = busy_share()
    load = round(os.getloadavg()[0], 2)
    counts = (1, os.cpu_count() or 1)
    peaks = None if native.active().name == "off" else [round(peak_gflops(threads), 1) for threads in counts]
    rates = [round(bandwidth(threads), 1) for threads in counts]
    return {"load": load, "busy": busy, "peak_gflops": peaks, "bandwidth_gb_s": rates}


def busy_share(seconds: float = 2.0) -> float | None:
    """Of the cores' time, while this process sleeps; None where the system does not say."""
    if not STAT.exists():
        return None
    before, idle_before = _ticks()
    time.sleep(seconds)
    after, idle_after = _ticks()
    return round(1 - (idle_after - idle_before) / max(after - before, 1), 3)


def _ticks() -> tuple[int, int]:
    """All cores' time since they started, and how much of it they idled or waited for a disk."""
    ticks = [int(word) for word in STAT.read_text(encoding="utf-8").splitlines()[0].split()[1:9]]
    return sum(ticks), ticks[3] + ticks[4]


def peak_gflops(threads: int) -> float:
    """Of so many threads at once: clocks may drop when more cores are busy."""
    return sum(at_once(lambda _: native.peak_flops(1.0), threads)) / 1e9


def bandwidth(threads: int, repeats: int = 5) -> float:
    """GB/s of a = b + c over arrays far larger than the caches, three transfers a value; the best of several."""
    size = ARRAY_MIB * 2**20 // 4 // threads

    def add(_: int) -> Callable[[], object]:
        a, b, c = np.zeros(size, np.float32), np.ones(size, np.float32), np.ones(size, np.float32)
        return lambda: np.add(b, c, out=a)

    runs = [add(thread) for thread in range(threads)]
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        at_once(lambda thread: runs[thread](), threads)
        taken.append(time.perf_counter() - start)
    return 3 * 4 * size * threads / min(taken) / 1e9


def at_once(work: Callable[[int], object], threads: int) -> list:
    """`work` of 0, 1, .., in so many threads; what is called here leaves the interpreter to the others."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, range(threads)))
