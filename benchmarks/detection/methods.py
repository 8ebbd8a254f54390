"""Every method by its name: fitted on one task, it scores that one and any other with the same columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial

import numpy as np

from benchmarks.detection import networks, ours, rules, saits, trees
from benchmarks.detection.plan import (
    BOOSTING,
    BOOSTING_ALL,
    ENCODERS,
    FOREST,
    FOREST_OF_HISTORY,
    PRODUCT,
    RANDOM_FOREST,
    ROBUST,
    SAITS,
    ZERO,
    Z,
)
from benchmarks.detection.tasks import Scores, Task

Scorer = Callable[[Task], Scores]


def fitted(method: str, task: Task, seed: int, epochs: int) -> Scorer:
    """What scores a task's events after a method was fitted on this one.

    Args:
        method: a name of the plan, or a rule of the task's.
        task: fitted on.
        seed: of every draw.
        epochs: at most, of a network.
    """
    if method in ENCODERS:
        detector = ours.fit(task, ENCODERS[method], seed, epochs)
        return partial(ours.scored, detector, likelihoods=not task.supervised)
    if method in (ZERO, PRODUCT):
        return networks.fitted(task, seed, "zero" if method == ZERO else "product", epochs)
    scores = one_at_a_time(method, seed)
    return lambda other: Scores(scores(task, other))


def one_at_a_time(method: str, seed: int) -> Callable[[Task, Task], np.ndarray]:
    """Of a method that is quick to fit: from the task it is fitted on and the one it scores, (rows,)."""
    if method in (FOREST, FOREST_OF_HISTORY):
        return partial(trees.isolation_forest, seed=seed, history=method == FOREST_OF_HISTORY)
    if method == BOOSTING:
        return partial(trees.gradient_boosting, seed=seed)
    if method == BOOSTING_ALL:
        return lambda fitted, task: trees.gradient_boosting(taught_by_all(fitted), task, seed)
    if method == RANDOM_FOREST:
        return partial(trees.random_forest, seed=seed)
    if method == SAITS:
        return partial(reconstruction_error, seed=seed)
    if method == ROBUST:
        return rules.robust_z
    return partial(of_one_column, method)


def of_one_column(method: str, fitted: Task, task: Task) -> np.ndarray:
    """What looks at one column alone: (rows,)."""
    if method == Z:
        name, _ = next(iter(task.rules.values())) if task.rules else (task.values[0], 1.0)
        return rules.running_mean_z(fitted, task, name)
    name, sign = task.rules[method]
    return rules.column(task, name, sign)


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
