"""Trees: an isolation forest without labels, gradient boosting with them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, IsolationForest, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.metrics import average_precision_score

from benchmarks.detection.past import Running
from benchmarks.detection.rules import scaled
from benchmarks.detection.tasks import Task

MOST_ROWS = 100_000  # a tree is grown from 256 of them
SETTINGS = (  # of boosting; the last third of the labelled training events, in time, chooses
    {},
    {"max_depth": 4, "learning_rate": 0.05, "max_iter": 200},
    {"max_leaf_nodes": 15, "learning_rate": 0.03, "max_iter": 300, "min_samples_leaf": 50, "l2_regularization": 1.0},
)


def isolation_forest(fitted: Task, task: Task, seed: int, *, history: bool) -> np.ndarray:
    """Isolation forest (Liu et al. 2008); missing values are imputed and flagged: (rows,).

    Args:
        fitted: whose training part it is fitted on.
        task: whose judged events are scored.
        seed: of the forest.
        history: whether it sees more than the values: the time since the last event and running medians, or the task's
            aggregates where labels may be known.
    """
    training = np.flatnonzero(fitted.training)
    generator = np.random.default_rng(seed)
    training = generator.permutation(training)[:MOST_ROWS]
    imputer = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    model = IsolationForest(random_state=seed).fit(
        imputer.fit_transform(inputs(fitted, fitted, history=history)[training])
    )
    return placed(
        task, lambda rows: -model.score_samples(imputer.transform(rows)), inputs(fitted, task, history=history)
    )


def inputs(fitted: Task, task: Task, *, history: bool) -> np.ndarray:
    """What the forest sees, of order one: (rows, X)."""
    if not history:
        return scaled(fitted, task)[:, : len(task.values)]
    if task.aggregates is not None and task.label_delay is not None:
        return task.aggregates(task)
    values = scaled(fitted, task)
    past = Running.of(task.codes(), task.seconds, task.kept, values)
    return np.hstack([values, past.median])


def gradient_boosting(fitted: Task, task: Task, seed: int) -> np.ndarray:
    """Histogram gradient boosting on what is known of the past: log odds (rows,)."""
    if fitted.aggregates is None or task.aggregates is None:
        raise ValueError(f"task {fitted.name!r} has no aggregates to learn from")
    known, label = fitted.aggregates(fitted), fitted.labels
    rows = np.flatnonzero(fitted.teaching)
    earlier, later = np.split(rows, [2 * len(rows) // 3])

    def fit(settings: dict, rows: np.ndarray) -> HistGradientBoostingClassifier:
        return HistGradientBoostingClassifier(random_state=seed, **settings).fit(known[rows], label[rows])

    def found(settings: dict) -> float:
        return float(average_precision_score(label[later], fit(settings, earlier).decision_function(known[later])))

    model = fit(max(SETTINGS, key=found), rows)
    return placed(task, model.decision_function, known if task is fitted else task.aggregates(task))


def random_forest(fitted: Task, task: Task, seed: int) -> np.ndarray:
    """Random forest on the same figures, the handbook's strongest beside boosting: probability (rows,).

    A missing figure is -1, which no figure is.
    """
    if fitted.aggregates is None or task.aggregates is None:
        raise ValueError(f"task {fitted.name!r} has no aggregates to learn from")
    known, rows = np.nan_to_num(fitted.aggregates(fitted), nan=-1.0), np.flatnonzero(fitted.teaching)
    model = RandomForestClassifier(random_state=seed).fit(known[rows], fitted.labels[rows])
    seen = known if task is fitted else np.nan_to_num(task.aggregates(task), nan=-1.0)
    return placed(task, lambda rows: model.predict_proba(rows)[:, 1], seen)


def placed(task: Task, score: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Scores of the judged events in their places, NaN elsewhere: (rows,)."""
    result = np.full(len(task.kept), np.nan)
    result[task.judged] = score(rows[task.judged])
    return result
