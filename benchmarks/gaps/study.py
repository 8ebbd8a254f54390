"""Trains and judges every method on every task, share of gaps and seed, into benchmarks/results/gaps.json.

    python -m benchmarks.gaps                    # everything (half an hour); then benchmarks.document
    python -m benchmarks.gaps --tasks digits --methods hold predict --seeds 1 --output /tmp/tried.json

Every run has a process' one thread, and its result depends on its seed alone.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks import machine
from benchmarks.gaps.network import Forecaster, last_observed
from benchmarks.gaps.plan import METHODS, REMOVALS, REPEAT_LAST, RESULTS, SEEDS, SHARES
from benchmarks.gaps.tasks import TASKS, observed
from gapcell.torch.nn import MaskedMSELoss

BATCH, RATE, WARM_UP = 8, 4e-3, 3


class Run(NamedTuple):
    """One network to train."""

    task: str
    removal: str
    share: float
    method: str
    seed: int


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gaps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> int:
    chosen, start = options(), time.monotonic()
    runs = [Run(*each) for each in product(chosen.tasks, REMOVALS, SHARES, chosen.methods, range(chosen.seeds))]
    found: dict[Run, dict[str, float]] = {}
    with ProcessPoolExecutor(chosen.processes, get_context("spawn"), initializer=one_thread) as pool:
        waiting = {pool.submit(errors, run): run for run in runs}
        for done in as_completed(waiting):
            run = waiting[done]
            found[run] = done.result()
            minutes = (time.monotonic() - start) / 60
            print(f"{len(found)}/{len(runs)} {minutes:5.1f} min  {' '.join(map(str, run))}  {found[run]}", flush=True)
    content = {
        "machine": machine.machine(),
        "versions": machine.versions(),
        "runs": [run._asdict() | {"errors": found[run]} for run in runs],
    }
    temporary = chosen.output.with_suffix(".part")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(chosen.output)
    print(f"wrote {chosen.output} in {(time.monotonic() - start) / 60:.1f} minutes")
    return 0


def one_thread() -> None:
    torch.set_num_threads(1)


def errors(run: Run) -> dict[str, float]:
    """The test error of a run's network at every share of gaps, and of the last value, relative to the mean's.

    The network sees one share in training, and is judged at all of them.
    """
    task = TASKS[run.task]
    train, test = task.draw(run.seed)
    torch.manual_seed(run.seed)
    network = Forecaster(METHODS[run.method], task.rank)
    fit(network, train, observed(train, run.removal, run.share, seed=1000 + run.seed), task.epochs)
    mean = train[~train.isnan()].mean()
    result = {}
    network.eval()
    with torch.no_grad():
        for share in (0.0, *SHARES):
            seen = observed(test, run.removal, share, seed=2000 + run.seed)
            result[f"{share:g}"] = relative(network(test[:, :-1], seen[:, :-1]), test, mean)
            if share == run.share:
                result[REPEAT_LAST] = relative(last_observed(test, seen)[:, :-1], test, mean)
    return result


def fit(network: Forecaster, x: Tensor, mask: Tensor, epochs: int) -> None:
    """Learn to forecast what is observed of the next step."""
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    batches = -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, epochs * batches)
    loss_of = MaskedMSELoss()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(BATCH):
            forecast = network(x[rows, :-1], mask[rows, :-1])
            loss = loss_of(forecast, x[rows, 1:], mask[rows, 1:])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()


def relative(forecast: Tensor, truth: Tensor, mean: Tensor) -> float:
    """Squared error of the next steps after a warm-up, over that of always forecasting the training mean."""
    forecast, truth = forecast[:, WARM_UP:], truth[:, 1 + WARM_UP :]
    known = ~truth.isnan()
    square, plain = (forecast - truth)[known].square().sum(), (mean - truth)[known].square().sum()
    return round(float(square / plain), 5)
