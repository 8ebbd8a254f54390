"""Ours, as people run it. `SequenceDetector` takes the same parameters, and adds no arithmetic."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl

from benchmarks.detection.tasks import LABEL, TIME, Scores, Task
from gapcell import detect
from gapcell.detect import Detector, EventTable, FitOptions
from gapcell.detect.heads import log_likelihoods
from gapcell.detect.scoring import events_judged, predictions

MOST_EPOCHS = 20
RATE_WITH_LABELS = 0.008  # of .003, .008 and .02 the best two weeks before the cards' test week


def parameters(task: Task, encoder: str, seed: int, epochs: int = MOST_EPOCHS) -> dict[str, Any]:
    """The parameters of `SequenceDetector` for a task.

    Args:
        task: says whose events they are, which side of a value is anomalous, and what labels may be used for.
        encoder: "auto", or the one that is asked for.
        seed: of every draw.
        epochs: at most.
    """
    given: dict[str, Any] = {
        "entity": task.keys if len(task.keys) > 1 else task.keys[0],
        "time": TIME,
        "values": list(task.values),
        "upper": task.upper,
        "lower": task.lower,
        "unscored": task.unscored,
        "train_until": task.train_until.isoformat(),
        "test_from": task.test_from.isoformat(),
        "encoder": encoder,
        "seed": seed,
        "epochs": epochs,
    }
    if task.supervised or task.label_delay is not None:
        given["label"] = LABEL
    if task.supervised:
        given |= {"supervised": True, "learning_rate": RATE_WITH_LABELS}
    if task.label_delay is not None:
        given["label_delay"] = task.label_delay.total_seconds()
    return given


def fit(task: Task, encoder: str, seed: int, epochs: int = MOST_EPOCHS) -> Detector:
    """A fitted detector. Of a supervised task only the labels from `train_from` on are learnt."""
    given = parameters(task, encoder, seed, epochs)
    table = read(task, given)
    learnt = task.teaching[task.kept] if task.supervised else None
    return detect.fit(
        table, FitOptions(**{name: given[name] for name in FitOptions.names() if name in given}), learnt=learnt
    )


def read(task: Task, given: dict[str, Any]) -> EventTable:
    """The events that were observed, in the task's order."""
    roles = {name: given[name] for name in ("entity", "time", "values", "label") if name in given}
    return detect.read_table(observed(task), **roles)


def observed(task: Task) -> pl.DataFrame:
    """The events that were observed, with the label only where it may be used."""
    columns = [*task.keys, TIME, *task.values]
    if task.supervised or task.label_delay is not None:
        columns.append(LABEL)
    return task.events.filter(pl.Series(task.kept)).select(columns)


def scored(detector: Detector, task: Task, *, likelihoods: bool = False) -> Scores:
    """The scores of the judged events of a task, NaN elsewhere and where not scored.

    Args:
        detector: fitted on a task with the same columns.
        task: whose events are scored.
        likelihoods: whether to find the negative log-likelihood of the first value, too.
    """
    table = detector.read(observed(task), label=LABEL if task.supervised or task.label_delay is not None else None)
    judged = task.judged[task.kept]
    score = detector.scored(table, judged).score
    alerts = score > detector.threshold
    missing = np.isnan(task.numbers()).all(1)[task.kept]
    nll = placed(task, negative_log_likelihood(detector, table, judged)) if likelihoods else None
    return Scores(placed(task, score), nll, chosen(detector), int(alerts[missing].sum()))


def placed(task: Task, values: np.ndarray) -> np.ndarray:
    """Values of the kept events among all, NaN elsewhere: (rows,)."""
    result = np.full(len(task.kept), np.nan)
    result[task.kept] = values
    return result


def chosen(detector: Detector) -> str:
    """The encoders of the streams."""
    return ", ".join(f"{candidate.encoder}" for candidate in detector.candidates if candidate.chosen)


def negative_log_likelihood(detector: Detector, table: EventTable, judged: np.ndarray) -> np.ndarray:
    """Of the judged events' first value given their entity's earlier events, on the scaled value: (rows,), else NaN."""
    predictor, stream = detector.predictor, detector.reads(table, wanted=judged)[0]
    if predictor.network is None:
        found, head = ((places, predictor.population) for places in events_judged(stream)), predictor.common[0]
    else:
        found, head = predictions(predictor, stream), predictor.own[0]
    result = np.full(len(table.codes), np.nan)
    for places, given in found:
        values = stream.targets.value[places]
        (density,) = log_likelihoods((head,), given.expand(len(values), -1), values)
        missing = values[:, head.feature].isnan()
        result[stream.stream.row[places.numpy()]] = (-density).masked_fill(missing, math.nan).numpy()
    return result
