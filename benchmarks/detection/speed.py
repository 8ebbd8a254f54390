"""How fast ours fits and scores all card transactions, beside a right-padded torch.nn.LSTM of 32 units."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch

from benchmarks.detection import cards, ours
from benchmarks.detection.networks import RATE, Arrays, RivalLSTM, arrays, chunk_loss, chunks, scored
from benchmarks.detection.plan import QUICK_CARDS

ROUNDS = 3
MEBI = 2**20
BATCH = 64


def measured(*, quick: bool = False) -> dict[str, Any]:
    """In a process of its own, whose peak of memory is ours."""
    command = [sys.executable, "-m", "benchmarks.detection.speed", *(["--quick"] if quick else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    quick = "--quick" in sys.argv
    task = cards.without_labels(cards.load(), 4, QUICK_CARDS if quick else 1.0)
    events = int(task.kept.sum())
    before = peak()
    start = time.perf_counter()
    detector = ours.fit(task, "convlstm", seed=0, epochs=1 if quick else ours.MOST_EPOCHS)
    seconds = time.perf_counter() - start
    found: dict[str, Any] = {"events": events, "fit_seconds": seconds, "peak_mib": peak(), "mib_before": before}
    rival = arrays(task, task, "zero")
    network = RivalLSTM(rival.inputs.shape[1], rival.targets.shape[1])
    found["rival_train"] = events / timed(lambda: one_epoch(network, rival))
    rates: dict[str, list[float]] = {"score": [], "rival_score": []}
    for _ in range(ROUNDS):
        rates["score"].append(events / timed(lambda: ours.scored(detector, task)))
        rates["rival_score"].append(events / timed(lambda: scored(network, task, rival)))
    print(json.dumps(found | {name: statistics.median(rate) for name, rate in rates.items()}))


def timed(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak() -> float:
    """MiB that were resident at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MEBI


def one_epoch(network: RivalLSTM, events: Arrays) -> None:
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    runs = chunks(events, -np.inf, np.inf)
    for batch in np.array_split(np.random.default_rng(0).permutation(runs), max(1, len(runs) // BATCH)):
        loss = chunk_loss(network, events, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    main()
