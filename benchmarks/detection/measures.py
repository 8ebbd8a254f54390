"""How well scores find the labelled events of a task."""

from __future__ import annotations

import numpy as np
import polars as pl
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.detection.tasks import Task
from gapcell.detect.volume import volume_under_pr

BUFFER = 100  # steps; the longest soft border of a labelled range


def measure(task: Task, scores: np.ndarray) -> dict[str, float]:
    """Every measure that the task asks for; what a method did not score comes last.

    Args:
        task: whose judged events are looked at.
        scores: (rows,), higher is more anomalous, NaN where not scored.

    Raises:
        ValueError: when nothing that is judged is labelled.
    """
    if not task.labels[task.judged].any():
        raise ValueError(f"no judged event of {task.name!r} is labelled: take more of its entities")
    label, score = task.labels[task.judged], lowest_last(scores[task.judged])
    found = {"ap": float(average_precision_score(label, score)), "auc": float(roc_auc_score(label, score))}
    if task.per_day:
        found["precision"] = entity_precision(task, scores, task.per_day)
    if task.series:
        each = volumes(task, scores)
        found["vus_pr"], found["series"] = float(np.mean(each)), len(each)
    found["unscored"] = int(np.isnan(scores[task.judged]).sum())
    return found


def lowest_last(scores: np.ndarray) -> np.ndarray:
    """Scores with something lower than all where there is none."""
    known = scores[~np.isnan(scores)]
    least = known.min() if known.size else 0.0
    return np.where(np.isnan(scores), least - 1.0, scores)


def entity_precision(task: Task, scores: np.ndarray, per_day: int) -> float:
    """Of the day's highest entities, each by its highest event, the share with a labelled event that day; days' mean.

    Args:
        task: whose judged events are looked at.
        scores: (rows,).
        per_day: how many entities.
    """
    at = task.judged
    events = pl.DataFrame(
        {"day": task.days[at], "entity": task.codes()[at], "score": lowest_last(scores[at]), "label": task.labels[at]}
    )
    entities = events.group_by("day", "entity").agg(pl.max("score"), pl.max("label"))
    highest = entities.sort("score", "entity", descending=[True, False]).group_by("day").head(per_day)
    days = highest.group_by("day").agg(pl.col("label").cast(pl.Float64).sum())
    return float((days["label"] / per_day).mean())


def volumes(task: Task, scores: np.ndarray) -> list[float]:
    """VUS-PR of every series in which something is labelled and something is not."""
    codes, seconds = task.codes(), task.seconds
    found = []
    for code in np.unique(codes):
        rows = np.flatnonzero((codes == code) & task.judged)
        rows = rows[np.argsort(seconds[rows], kind="stable")]
        label = task.labels[rows]
        if label.any() and not label.all():
            found.append(volume_under_pr(label, lowest_last(scores[rows]), BUFFER))
    return found
