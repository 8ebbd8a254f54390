"""Runs every method on every task into benchmarks/results/detect.json, and writes docs/detect-benchmarks.md.

    python -m benchmarks.detect                      # everything (hours); one that was ended goes on there
    python -m benchmarks.detect --minutes 60          # begins no run after an hour; the document says what was run
    python -m benchmarks.detect --only "cards" --seeds 1
    python -m benchmarks.detect --quick               # a little of everything, to see that it runs; writes no document
    python -m benchmarks.detect --anew                # forgets the scores of earlier runs

Scores are kept in a folder, and are judged when all are there. The data is looked for in GAPCELL_DATA.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from datetime import datetime
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks import machine
from benchmarks.detection import ours, rules, saits, speed, trees
from benchmarks.detection.judgement import judge
from benchmarks.detection.networks import lstm
from benchmarks.detection.plan import (
    BOOSTING,
    BOOSTING_ALL,
    ENCODERS,
    FOREST,
    FOREST_OF_HISTORY,
    PRODUCT,
    QUICK_CARDS,
    RANDOM_FOREST,
    ROBUST,
    SAITS,
    SEEDS,
    ZERO,
    Cell,
    Z,
    cells,
    tasks_of,
)
from benchmarks.detection.tasks import Scores, Task

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "detect.json"
SCORES = ROOT / "build" / "detect-scores"
QUICK_EPOCHS = 2


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.detect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[], help="tasks or methods whose names hold one of these")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--anew", action="store_true")
    parser.add_argument("--minutes", type=float, default=math.inf, help="after which no run is begun")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--scores", type=Path, default=None, help="folder of the scores")
    parser.add_argument("--output", type=Path, default=None)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    chosen, start = options(arguments), time.monotonic()
    folder = chosen.scores or (SCORES.with_name("detect-scores-quick") if chosen.quick else SCORES)
    if chosen.anew:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    possible = cells(quick=chosen.quick, saits=saits.interpreter() is not None)
    planned = [cell for cell in possible if cell.seed < chosen.seeds and wanted(cell, chosen.only)]
    waiting = [cell for cell in planned if not path_of(folder, cell).exists()]
    print(f"{len(planned)} runs, {len(planned) - len(waiting)} of them done", flush=True)
    failed = run_all(waiting, folder, chosen, start)
    output = chosen.output or (folder / "detect.json" if chosen.quick or chosen.only else RESULTS)
    content = {"machine": machine.machine(), "versions": machine.versions()}
    if not chosen.only or "speed" in chosen.only:
        content["speed"] = speed.measured(quick=chosen.quick)
    done = [cell for cell in planned if path_of(folder, cell).exists()]
    content |= judge(done, lambda cell: read(path_of(folder, cell)), share_of_cards(chosen.quick))
    temporary = output.with_suffix(".part")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(output)
    print(f"wrote {output} in {(time.monotonic() - start) / 60:.1f} minutes")
    if output == RESULTS:
        from benchmarks.detection import page  # here, as Altair is slow to import

        page.write()
    return 1 if failed else 0


def wanted(cell: Cell, only: list[str]) -> bool:
    return not only or any(word in name for word in only for name in (cell.task, cell.method))


def share_of_cards(quick: bool) -> float:
    return QUICK_CARDS if quick else 1.0


def run_all(waiting: list[Cell], folder: Path, chosen: argparse.Namespace, start: float) -> int:
    """Every run in a process, each with one thread, its scores written when it ends; returns how many failed."""
    failed, number, queue = 0, 0, iter(waiting)
    running: dict[Future, Cell] = {}

    def minutes() -> float:
        return (time.monotonic() - start) / 60

    with ProcessPoolExecutor(chosen.processes, get_context("spawn")) as pool:
        while True:
            while len(running) < chosen.processes and minutes() < chosen.minutes and (cell := next(queue, None)):
                running[pool.submit(run, cell, folder, chosen.quick)] = cell
            if not running:
                return failed
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                cell, error = running.pop(done), done.exception()
                number, failed = number + 1, failed + (error is not None)
                said = f"{done.result():6.1f} s" if error is None else f"failed: {error!r}"
                print(f"{number}/{len(waiting)} {minutes():5.1f} min  {said}  {cell.key}", flush=True)


def path_of(folder: Path, cell: Cell) -> Path:
    return folder / f"{cell.key}.npz"


def run(cell: Cell, folder: Path, quick: bool) -> float:
    """One run, into its file; returns its seconds."""
    start = time.monotonic()
    fitted, task = tasks_of(cell, share_of_cards(quick))
    found = scores(cell, fitted, task, QUICK_EPOCHS if quick else ours.MOST_EPOCHS)
    seconds = time.monotonic() - start
    nll = np.empty(0) if found.nll is None else found.nll[task.judged]
    path = path_of(folder, cell)
    temporary = path.with_suffix(".part.npz")
    about = {"nll": nll, "seconds": seconds, "encoder": found.encoder, "alerts_on_missing": found.alerts_on_missing}
    np.savez(temporary, score=found.score[task.judged], **about)
    temporary.replace(path)
    return seconds


def read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as content:
        return dict(content)


def scores(cell: Cell, fitted: Task, task: Task, epochs: int) -> Scores:
    """What a cell's method says of its events."""
    if cell.method in ENCODERS:
        detector = ours.fit(fitted, ENCODERS[cell.method], cell.seed, epochs)
        return ours.scored(detector, task, likelihoods=not task.supervised)
    if cell.method in (ZERO, PRODUCT):
        return lstm(fitted, task, cell.seed, "zero" if cell.method == ZERO else "product", epochs)
    if cell.method == FOREST:
        return Scores(trees.isolation_forest(fitted, task, cell.seed, history=False))
    if cell.method == FOREST_OF_HISTORY:
        return Scores(trees.isolation_forest(fitted, task, cell.seed, history=True))
    if cell.method == BOOSTING:
        return Scores(trees.gradient_boosting(fitted, task, cell.seed))
    if cell.method == BOOSTING_ALL:
        return Scores(trees.gradient_boosting(taught_by_all(fitted), task, cell.seed))
    if cell.method == RANDOM_FOREST:
        return Scores(trees.random_forest(fitted, task, cell.seed))
    if cell.method == SAITS:
        return Scores(reconstruction_error(fitted, task, cell.seed))
    if cell.method == ROBUST:
        return Scores(rules.robust_z(fitted, task))
    name, sign = next(iter(task.rules.values())) if task.rules else (task.values[0], 1.0)
    if cell.method == Z:
        return Scores(rules.running_mean_z(fitted, task, name))
    name, sign = task.rules[cell.method]
    return Scores(rules.column(task, name, sign))


def taught_by_all(task: Task) -> Task:
    """The same task, the labels of its whole training part to be learnt."""
    return replace(task, train_from=datetime(1970, 1, 1))


def reconstruction_error(fitted: Task, task: Task, seed: int) -> np.ndarray:
    """SAITS's, of every kept event: (rows,)."""

    def cut(of: Task) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        values = rules.scaled(fitted, of)[:, : len(of.values)]
        rows, there = saits.windows(of.codes(), of.kept)
        return np.where(there[..., None], values[rows], np.nan), rows, there

    seen, rows, there = cut(fitted)
    training = seen[np.where(there, fitted.training[rows], True).all(1)]
    values, rows, there = cut(task)
    result = np.full(len(task.kept), np.nan)
    result[rows[there]] = saits.scores(training, values, seed)[there]
    return result
