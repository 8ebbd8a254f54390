"""A process that runs a stream in a child whenever it is told to, so that a kill costs no start of Python.

    python -m benchmarks.stream.worker FOLDER

Reads orders as lines of JSON from standard input, and answers each with the status that the child ended with. An order
has `kill_after`, seconds to its death, and `limit`, the most bytes that a file may have; each may be None.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

from gapcell.detect import Detector
from gapcell.stream import FileSource, FileTarget, Policy, SQLiteStore, StoreError, TargetError, run

MODEL, EVENTS, STORE, SCORES, PROBLEM = "model", "events.jsonl", "state.sqlite", "scores.jsonl", "problem.txt"
BATCH = 50  # events: many small batches are many moments at which a kill can hurt


def main() -> None:
    folder = Path(sys.argv[1])
    detector = Detector.load(folder / MODEL)  # nothing here starts a thread, which a fork would lose
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if not child:
            os._exit(work(folder, detector, order["limit"]))
        if order["kill_after"] is not None:
            time.sleep(order["kill_after"])
            os.kill(child, signal.SIGKILL)  # until it is waited for, its number is no other process's
        print(os.waitpid(child, 0)[1], flush=True)


def work(folder: Path, detector: Detector, limit: int | None) -> int:
    """Run the stream; the exit status."""
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    policy = Policy(id_column="id", most=BATCH, wait=0.0, format="jsonl")
    try:
        run(detector, SQLiteStore(folder / STORE), FileSource(folder / EVENTS), FileTarget(folder / SCORES), policy)
    except (StoreError, TargetError) as error:
        (folder / PROBLEM).write_text(str(error), encoding="utf-8")
        return 1
    except BaseException:  # a child must never return into its parent's loop
        traceback.print_exc()
        return 3
    return 0


if __name__ == "__main__":
    main()
