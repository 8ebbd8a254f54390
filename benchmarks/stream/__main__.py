"""Measures `gapcell.stream` and writes benchmarks/results/stream.json: `python -m benchmarks.stream`."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks import machine
from benchmarks.stream import faults, speed
from benchmarks.stream.findings import RESULTS
from gapcell.files import replacing


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stream", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="at random moments, each followed by a new start")
    parser.add_argument("--soak", type=int, default=1_000_000, help="events of the long stream")
    parser.add_argument("--customers", type=int, default=10_000, help="entities")
    parser.add_argument("--steps", type=int, default=2_000, help="single events that are timed")
    options = parser.parse_args()
    found: dict[str, object] = {"machine": machine.machine(), "versions": machine.versions()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few = faults.simulated(200, 60)
        detector = faults.fitted(few)
        print("speed", flush=True)
        many = faults.simulated(options.customers, 45)
        found["throughput"] = speed.throughput(detector, many, folder)
        found["latency"] = speed.latency(detector, many, options.steps)
        print(json.dumps(found, indent=1), flush=True)
        print("kills", flush=True)
        enough = faults.simulated(12 * options.kills + 200, 60)
        faults.prepared(folder, enough, detector)
        with faults.worker(folder) as process:
            faults.killed(process, folder, kills=0, seed=0)
            expected = faults.scores(folder)
            faults.fresh(folder)
            hit = faults.killed(process, folder, options.kills, seed=0)
        found["kills"] = {"events": enough.height, "kills": hit, "wrong": faults.wrong(folder, expected)}
        print("soak", flush=True)
        found["soak"] = speed.soak(detector, folder, options.soak, options.customers)
    with replacing(RESULTS) as path:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
