"""Runs every method on every task into benchmarks/results/detect.json, and writes docs/detect-benchmarks.md.

    python -m benchmarks.detect                      # everything (hours); one that was ended goes on there
    python -m benchmarks.detect --minutes 60          # begins no fit after an hour
    python -m benchmarks.detect --only "cards, gaps"  # of what is measured task by task, one; the others stay
    python -m benchmarks.detect --quick               # a little of everything, to see that it runs; writes no document
    python -m benchmarks.detect --anew                # forgets the scores of earlier runs

Scores are kept in a folder. What stands in the results of a task gives way when at least as many of its runs are done
here. The data is looked for in GAPCELL_DATA.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.detection import methods, ours, results, saits, speed
from benchmarks.detection.judgement import judge
from benchmarks.detection.plan import QUICK_CARDS, SEEDS, Cell, cells, tasks_of

SCORES = Path(__file__).parents[2] / "build" / "detect-scores"
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
    output = chosen.output or (folder / "detect.json" if chosen.quick else results.PATH)
    content = results.read(output)
    if not chosen.only or "speed" in chosen.only:
        content = results.with_speed(content, speed.measured(quick=chosen.quick))
    for task in dict.fromkeys(cell.task for cell in planned):
        done = [cell for cell in possible if cell.task == task and path_of(folder, cell).exists()]
        if len(done) < results.runs_of(content, task):
            print(f"{task}: {len(done)} runs are done, and the results of more stay")
        elif done:
            found = judge(done, lambda cell: read(path_of(folder, cell)), share_of_cards(chosen.quick))
            content = results.with_task(content, task, found)
    results.write(content, output)
    print(f"wrote {output} in {(time.monotonic() - start) / 60:.1f} minutes")
    if output == results.PATH:
        from benchmarks.detection import page  # here, as Altair is slow to import

        page.write()
    return 1 if failed else 0


def wanted(cell: Cell, only: list[str]) -> bool:
    return not only or any(word in name for word in only for name in (cell.task, cell.method))


def share_of_cards(quick: bool) -> float:
    return QUICK_CARDS if quick else 1.0


def jobs(waiting: list[Cell]) -> list[list[Cell]]:
    """The runs that share a fit, together, in the order of their first."""
    found: dict[Cell, list[Cell]] = {}
    for cell in waiting:
        found.setdefault(cell.fitted, []).append(cell)
    return list(found.values())


def run_all(waiting: list[Cell], folder: Path, chosen: argparse.Namespace, start: float) -> int:
    """Every fit in a process of one thread, the scores of each run written when it ends; returns how many failed."""
    failed, number, queue = 0, 0, iter(jobs(waiting))
    running: dict[Future, list[Cell]] = {}

    def minutes() -> float:
        return (time.monotonic() - start) / 60

    with ProcessPoolExecutor(chosen.processes, get_context("spawn")) as pool:
        while True:
            while len(running) < chosen.processes and minutes() < chosen.minutes and (job := next(queue, None)):
                running[pool.submit(run, job, folder, chosen.quick)] = job
            if not running:
                return failed
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                job, error = running.pop(done), done.exception()
                number, failed = number + len(job), failed + (error is not None)
                said = f"{done.result():6.1f} s" if error is None else f"failed: {error!r}"
                more = f" and {len(job) - 1} more" if len(job) > 1 else ""
                print(f"{number}/{len(waiting)} {minutes():5.1f} min  {said}  {job[0].key}{more}", flush=True)


def path_of(folder: Path, cell: Cell) -> Path:
    return folder / f"{cell.key}.npz"


def run(job: list[Cell], folder: Path, quick: bool) -> float:
    """The runs that share a fit, each into its file; returns the seconds of all. Those of the fit are the first's."""
    begun = start = time.monotonic()
    task, _ = tasks_of(job[0], share_of_cards(quick))
    score = methods.fitted(job[0].method, task, job[0].seed, QUICK_EPOCHS if quick else ours.MOST_EPOCHS)
    for cell in job:
        _, task = tasks_of(cell, share_of_cards(quick))
        found = score(task)
        nll = np.empty(0) if found.nll is None else found.nll[task.judged]
        path = path_of(folder, cell)
        temporary = path.with_suffix(".part.npz")
        about = {"seconds": time.monotonic() - start, "encoder": found.encoder}
        about |= {"nll": nll, "alerts_on_missing": found.alerts_on_missing}
        np.savez(temporary, score=found.score[task.judged], **about)
        temporary.replace(path)
        start = time.monotonic()
    return start - begun


def read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as content:
        return dict(content)
