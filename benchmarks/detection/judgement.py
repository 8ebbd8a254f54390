"""From the scores of all runs to what stands in the document."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from benchmarks.detection.bootstrap import draw, drawn_average_precision, interval
from benchmarks.detection.measures import lowest_last, measure
from benchmarks.detection.plan import OURS, Cell, tasks_of
from benchmarks.detection.tasks import Task

DRAWS = 1000
Found = dict[str, np.ndarray]


def judge(planned: Iterable[Cell], read: Callable[[Cell], Found], share_of_cards: float) -> dict[str, Any]:
    """Measures of every run, and for every place the methods' average precisions with what resampling entities does.

    Args:
        planned: the runs, all of them done.
        read: a run's scores of the judged events, "score" (judged,), "nll" (judged,) or empty, "seconds", "encoder".
        share_of_cards: as in the runs.
    """
    places: dict[tuple, list[Cell]] = defaultdict(list)
    for cell in planned:
        places[cell.place].append(cell)
    there = {cell for same in places.values() for cell in same}
    runs, intervals = [], []
    for same in places.values():
        _, task = tasks_of(same[0], share_of_cards)
        _, whole = tasks_of(same[0].whole, share_of_cards)
        found = {cell: read(cell) for cell in same}
        for cell in same:
            run = run_of(cell, task, found[cell])
            if cell.where == "scoring" and cell.whole in there:
                run |= rise_of(found[cell]["nll"], task, read(cell.whole)["nll"], whole)
            runs.append(run)
        intervals += intervals_of(same, task, found)
    return {"runs": runs, "intervals": intervals}


def rise_of(nll: np.ndarray, task: Task, before: np.ndarray, whole: Task) -> dict[str, float]:
    """By how much the negative log-likelihood of the same events rose when the task got gaps.

    Args:
        nll: (judged,) of the task with gaps, NaN where the value is missing; empty of a method without likelihoods.
        task: with gaps, its judged events among the whole one's.
        before: (judged,) of the whole task.
        whole: the task without gaps of ours.
    """
    if not nll.size or not before.size:
        return {}
    both = before[task.judged[whole.judged]]
    return {"nll_rise": round(float(np.nanmean(nll - both)), 5)}


def run_of(cell: Cell, task: Task, found: Found) -> dict[str, Any]:
    scores = np.full(len(task.kept), np.nan)
    scores[task.judged] = found["score"]
    measured = {name: round(value, 5) for name, value in measure(task, scores).items()}
    if not np.isnan(found["nll"]).all():
        measured["nll"] = round(float(np.nanmean(found["nll"])), 5)
    about = {"seconds": round(float(found["seconds"]), 1), "encoder": str(found["encoder"])}
    if cell.method in OURS:
        about["alerts_on_missing"] = int(found["alerts_on_missing"])
    return cell._asdict() | measured | about


def intervals_of(same: list[Cell], task: Task, found: dict[Cell, Found]) -> list[dict[str, Any]]:
    """What holds 95 % of the draws of entities: each method's average precision, and by how much ours is above it.

    Ours is the first of `OURS` that was run; seeds are averaged in every draw, and the draws are the same for all.
    """
    methods = list(dict.fromkeys(cell.method for cell in same))
    label, entity = task.labels[task.judged], task.codes()[task.judged]
    weights = draw(int(task.codes().max()) + 1, DRAWS)
    unit = np.ones((len(weights), 1))

    def precisions(method: str) -> tuple[float, np.ndarray]:
        scores = [lowest_last(found[cell]["score"]) for cell in same if cell.method == method]
        once = drawn_average_precision(scores, label, entity, unit)
        return float(once[0]), drawn_average_precision(scores, label, entity, weights)

    all_found = {method: precisions(method) for method in methods}
    ours = next((method for method in OURS if method in all_found), None)
    rows = []
    for method, (value, drawn) in all_found.items():
        row = same[0]._asdict() | {"method": method, "ap": round(value, 5), "interval": rounded(interval(drawn))}
        del row["seed"]
        if ours is not None and method != ours:
            row["against"], row["ahead"] = ours, round(all_found[ours][0] - value, 5)
            row["ahead_interval"] = rounded(interval(all_found[ours][1] - drawn))
        rows.append(row)
    return rows


def rounded(pair: tuple[float, float]) -> list[float]:
    return [round(value, 5) for value in pair]
