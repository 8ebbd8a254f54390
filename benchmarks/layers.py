"""Measures everything, or a part of it, into benchmarks/results/layers.json.

    python -m benchmarks.layers                             # everything; then `python -m benchmarks.document`
    python -m benchmarks.layers --shapes S1 S2 --repeats 3  # measured anew, the rest of the file is kept

The file is written after every shape and mode. Needs the extras torch, flax, keras and TensorFlow, and an idle machine.
"""

from __future__ import annotations

import argparse
import sys
import time

from benchmarks import machine
from benchmarks.catalogue import MEMORY, MEMORY_SHAPE, MODES, SYSTEMS, tasks
from benchmarks.interleaved import TaskError, measure, workers
from benchmarks.memory import step_megabytes
from benchmarks.results import RESULTS, Results
from benchmarks.shapes import SHAPES

SYSTEMS_HELP = "for trying things out: figures that are compared should come from one run"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.layers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help=SYSTEMS_HELP)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--repeats", type=int, default=7, help="rounds; systems of over a second a run take 3")
    parser.add_argument("--no-memory", action="store_true", help=f"do not measure the memory of {MEMORY_SHAPE}")
    parser.add_argument("--anew", action="store_true", help="forget what the file holds")
    return parser.parse_args()


def main() -> int:
    chosen, start, failed = options(), time.monotonic(), []
    results = Results.started(machine.machine(), machine.versions(), anew=chosen.anew)
    with workers() as processes:
        for shape in chosen.shapes:
            results.begin(shape, machine.state())
            for mode in chosen.modes:
                figures, problems = measure(processes, tasks(shape, mode, tuple(chosen.systems)), chosen.repeats)
                failed += problems
                results.add(figures)
                results.write()
    for system in [] if chosen.no_memory else [name for name in MEMORY if name in chosen.systems]:
        try:
            results.add_memory(system, step_megabytes(system, MEMORY_SHAPE))
        except TaskError as error:
            failed.append(f"memory, {system}: {error}")
            continue
        print(f"memory, {system}: {results.memory(system):.0f} MB", flush=True)
        results.write()
    print(f"wrote {RESULTS} in {(time.monotonic() - start) / 60:.1f} minutes", *failed, sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
