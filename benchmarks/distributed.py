"""How long an epoch of training takes in one process and in two: `python -m benchmarks.distributed`.

Each run is a fit of `gapcell.detect` on the same simulated table, started as torchrun starts it, each process with one
thread. One process and two take turns; the first epoch of a run does not count. Beside the time of the clock stands the
processor's, of the first process: neither what other programs take nor waiting for the other process is in it.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.interleaved import summary
from benchmarks.machine import machine, state, versions

RESULTS = Path(__file__).parent / "results" / "distributed.json"
CUSTOMERS, DAYS, SEED = 4000, 120, 0
COLUMNS = ["amount", "category", "distance", "online"]
ENCODERS = ("convlstm", "lstm")
PROCESSES = (1, 2)
EPOCHS, ROUNDS = 6, 3
CLOCKS = ("clock", "processor")

Taken = dict[str, list[float]]  # milliseconds of epochs by the clock they are of


def main() -> None:
    before = state()
    epochs = {encoder: {count: {clock: [] for clock in CLOCKS} for count in PROCESSES} for encoder in ENCODERS}
    with tempfile.TemporaryDirectory() as folder:
        events = simulated(Path(folder) / "cards.parquet")
        for number in range(ROUNDS):
            for encoder in ENCODERS:
                for count in PROCESSES if number % 2 else PROCESSES[::-1]:
                    taken = timed(Path(folder), encoder, count)
                    for clock in CLOCKS:
                        epochs[encoder][count][clock] += taken[clock]
                    medians = ", ".join(f"{clock} {statistics.median(taken[clock]):.0f} ms" for clock in CLOCKS)
                    print(f"{number + 1}/{ROUNDS} {encoder}, {count} processes: {medians}", flush=True)
    content = {
        "machine": machine(),
        "versions": versions(),
        "state": before,
        "table": {"customers": CUSTOMERS, "days": DAYS, "seed": SEED, "events": events, "columns": COLUMNS},
        "epoch": {encoder: figures(found) for encoder, found in epochs.items()},
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def simulated(path: Path) -> int:
    """Write the table; how many events it has."""
    from gapcell.detect.simulate import Simulation

    frame = Simulation(CUSTOMERS, DAYS, SEED).frame()
    frame.write_parquet(path)
    return frame.height


def figures(epochs: dict[int, Taken]) -> dict[str, Any]:
    """By clock: milliseconds of an epoch by number of processes, and how many times faster than one they are."""
    found = {}
    for clock in CLOCKS:
        processes = {str(count): summary(taken[clock]) for count, taken in epochs.items()}
        times = {count: round(processes["1"]["ms"] / figure["ms"], 3) for count, figure in processes.items()}
        found[clock] = {"processes": processes, "times_faster": times}
    return found


def timed(folder: Path, encoder: str, count: int) -> Taken:
    """Each epoch but the first, as the first of so many processes saw them.

    Raises:
        SystemExit: a process failed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.distributed", str(folder), encoder]
    running = [
        subprocess.Popen(command, env=os.environ | where | {"RANK": str(rank), "WORLD_SIZE": str(count)})
        for rank in range(count)
    ]
    if any(process.wait() for process in running):
        raise SystemExit(f"{encoder} in {count} processes failed")
    return json.loads((folder / "epochs.json").read_text(encoding="utf-8"))


def work(folder: Path, encoder: str) -> None:
    """One of the processes: fits, and if it is the first writes when the epochs ended."""
    from gapcell.detect import FitOptions, fit, read_table
    from gapcell.detect.distributed import joined

    ends: list[tuple[float, float]] = []

    def watch(stage: str, done: int, total: int, message: str = "") -> None:
        if stage == "network":
            ends.append((time.perf_counter(), time.process_time()))

    table = read_table(folder / "cards.parquet", entity="customer", time="time", values=COLUMNS)
    with joined() as ranks:
        fit(table, FitOptions(encoder=encoder, epochs=EPOCHS, patience=EPOCHS), progress=watch, ranks=ranks)
        if ranks.first:
            taken = {
                clock: [1e3 * (after - before) for before, after in itertools.pairwise(times)]
                for clock, times in zip(CLOCKS, zip(*ends, strict=True), strict=True)
            }
            (folder / "epochs.json").write_text(json.dumps(taken), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        work(Path(sys.argv[1]), sys.argv[2])
    else:
        main()
