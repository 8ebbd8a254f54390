"""Fit a detector on a table of events."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np

from gapcell.detect.checkpoint import Checkpoints, fingerprint
from gapcell.detect.columns import listed
from gapcell.detect.cross_fitting import CrossFitted
from gapcell.detect.detector import Detector
from gapcell.detect.distributed import ALONE, Ranks
from gapcell.detect.events import GAP, REPORTS, EventTable
from gapcell.detect.features import Encoding
from gapcell.detect.heads import Tail
from gapcell.detect.label_model import LabelModel, fit_labels
from gapcell.detect.material import Material
from gapcell.detect.model import one_thread
from gapcell.detect.options import FitOptions
from gapcell.detect.refusals import TableError
from gapcell.detect.results import Candidate, Progress, Split, silent
from gapcell.detect.scoring import Parts, Read
from gapcell.detect.selection import fit_stream
from gapcell.detect.splits import cut_time
from gapcell.detect.state import Schema, StreamModel
from gapcell.detect.streams import Stream, streams_of
from gapcell.detect.tail_map import TailMap

DAY = 86_400.0
MOST_ALERTS = 0.5  # of the events, however many a day are wanted


@one_thread()
def fit(
    table: EventTable,
    options: FitOptions | None = None,
    *,
    progress: Progress = silent,
    checkpoint: str | Path | None = None,
    learnt: np.ndarray | None = None,
    ranks: Ranks = ALONE,
) -> Detector:
    """Fit a detector on a table of events.

    Time is cut into train | held-out | test. Scaling, categories, population and networks see the training part; the
    first half of the held-out events chooses the encoder, the epoch and the families of the heads, and the second half,
    which chose nothing, sets the threshold. Nothing is fitted on the test part. Events of the other parts are scored
    and may alert too; `part` tells them apart.

    The threshold is conformal: of n held-out scores the ceil((n + 1)(1 - budget))-th smallest, so that an event that
    comes from what the held-out ones came from alerts with probability at most `budget`. Where they are too few for
    that, it is their highest, but no less than -log(budget).

    An interruption (Ctrl-C) after the first epoch ends the training; what is best by then is kept.

    Several processes call this together, each with the whole table, and each returns the same detector: the networks'
    training is shared among them, and all else each does for itself. An interruption ends them without one.

    Args:
        table: the events.
        options: the choices; the default ones when None.
        progress: told how far the work is.
        checkpoint: a folder in which trainings are kept epoch by epoch: the same call after a kill goes on from there.
        learnt: (rows,) bool, True where a row's label may train the model of the labels when `supervised`; all training
            rows when None. The encoders read every known label of the training part.
        ranks: the processes that train together, as `gapcell.detect.distributed.joined` gives them.

    Raises:
        TableError: when there is too little to learn from, or an option names no feature.
        ProcessError: when another process was given something else, ended, or takes too long.
    """
    options = options or FitOptions()
    check_names(table, options)
    split = cut_time(table, options)
    check_enough(table, split, options)
    known = known_labels(table, options, learnt)
    models: list[StreamModel] = []
    candidates: list[Candidate] = []
    cross_fitted: list[CrossFitted | None] = []
    for stream in streams_of(table, options.label_delay):
        material = material_of(table, stream, split, options, known)
        if not ranks.alone:
            ranks.check_same(f"{fingerprint(material, options)} {checkpoint is None}", "the events and options")
        kept = None if checkpoint is None else Checkpoints(Path(checkpoint), material, options, ranks)
        found = fit_stream(material, options, progress, kept, ranks)
        models.append(StreamModel(material.encoding, found.predictor, found.epochs))
        candidates += found.candidates
        cross_fitted.append(found.cross_fitted)
        if found.interrupted:  # what is left is fitted in moments
            options = dataclasses.replace(options, encoder="none")
    features = sum(len(model.encoding.features) for model in models)
    detector = Detector(
        schema_of(table, options), options, tuple(models), (TailMap(),) * features, (TailMap(),) * features, None,
        split, math.inf, 0, options.budget, tuple(candidates),
    )  # fmt: skip
    learnt = known if learnt is None or known is None else known & learnt
    reads = detector.reads(table, split.test_from, judged_in_fit(table, split, learnt))
    stated = detector.stated(len(table.codes), reads)
    detector = calibrated(detector, table, stated)
    parts = detector.worth(stated)
    if learnt is not None:
        rows = np.flatnonzero(learnt & (table.seconds < split.train_until))
        honest = dataclasses.replace(parts, odds=odds_of_others(cross_fitted, reads, len(table.codes)))
        inputs = detector.label_inputs(honest, reads, rows)
        labels = learn_labels(table, rows, inputs, options.seed, progress)
        detector = dataclasses.replace(detector, labels=labels)
    progress("scores", 1, 1)
    return with_threshold(detector, table, detector.decided(parts, reads).score)


def schema_of(table: EventTable, options: FitOptions) -> Schema:
    """The columns of a table that a detector with these options reads."""
    reading = table.reading
    label = reading.label if options.supervised or options.label_delay is not None else None
    return Schema(reading.entity, reading.time, reading.time_form, reading.columns, reading.others, label)


def known_labels(table: EventTable, options: FitOptions, learnt: np.ndarray | None) -> np.ndarray | None:
    """Which rows' labels are known, (rows,) bool; None where labels are not learnt."""
    if table.label is None and (options.supervised or options.label_delay is not None):
        asked = "supervised" if options.supervised else "label_delay"
        raise TableError(f"{asked} reads labels, and the table has none: name the column (label=, --label)")
    if not options.supervised or table.label is None:
        return None
    if learnt is not None and (learnt.dtype != bool or learnt.shape != (len(table.codes),)):
        raise ValueError(f"learnt is {learnt.dtype} {learnt.shape}: bool of shape ({len(table.codes)},) was expected")
    return table.label.is_not_null().to_numpy()


def material_of(
    table: EventTable, stream: Stream, split: Split, options: FitOptions, known: np.ndarray | None
) -> Material:
    """The material of one stream."""
    encoding = Encoding.fit(table, stream, split.train_until, options.max_categories)
    tails = tuple(tail_of(feature.name, options) for feature in encoding.features)
    return Material.of(table, stream, encoding, split, options.mixture_components, tails, known)


def tail_of(name: str, options: FitOptions) -> Tail:
    """Which side of a feature is anomalous; many reports always are, and few never."""
    if name in options.upper or name == REPORTS:
        return "upper"
    return "lower" if name in options.lower else "two-sided"


def check_names(table: EventTable, options: FitOptions) -> None:
    """Refuse options that name no feature of this table."""
    numeric = [column.name for column in table.reading.columns if column.kind == "numeric"] + [GAP]
    every = [column.name for column in table.reading.columns] + [GAP]
    every += [REPORTS] if options.label_delay is not None else []
    every += [f"{name}_by_{key}" for key in table.reading.others for name in every]
    for option, names, known, kind in (
        ("upper", options.upper, numeric, "numeric feature"),
        ("lower", options.lower, numeric, "numeric feature"),
        ("unscored", options.unscored, every, "feature"),
    ):
        for name in names:
            if name not in known:
                raise TableError(f"{option} names {name!r}, which is no {kind}: there are {listed(known)}")
    if set(every) <= set(options.unscored):
        raise TableError("unscored names every feature: nothing is left to score")


def judged_in_fit(table: EventTable, split: Split, learnt: np.ndarray | None) -> np.ndarray:
    """The events whose scores a fit looks at, (rows,) bool: the held-out ones, and those whose labels are learnt."""
    held_out = table.seconds >= split.train_until
    return held_out if learnt is None else held_out | learnt


def calibrated(detector: Detector, table: EventTable, stated: Parts) -> Detector:
    """The detector with the worth of its parts, found on the held-out events that also chose the encoder."""
    split = detector.split
    inside = (table.seconds >= split.train_until) & (table.seconds < split.threshold_from)
    maps = [tuple(TailMap.fit(column) for column in parts[inside].T) for parts in (stated.own, stated.population)]
    return dataclasses.replace(detector, own_maps=maps[0], population_maps=maps[1])


def odds_of_others(cross_fitted: list[CrossFitted | None], reads: tuple[Read, ...], rows: int) -> np.ndarray:
    """Log odds (rows, streams) of labels from networks that did not learn them; NaN where there are none."""
    nothing = np.full(rows, np.nan)
    return np.stack(
        [nothing if found is None else found.odds(read, rows) for found, read in zip(cross_fitted, reads, strict=True)],
        1,
    )


def learn_labels(table: EventTable, rows: np.ndarray, inputs: np.ndarray, seed: int, progress: Progress) -> LabelModel:
    """Train the model of the labels on the events at these rows (n,), of which this (n, K) is seen."""
    if table.label is None:
        raise TableError("labels are learnt from a label column, and the table has none")
    labels = table.label.fill_null(value=False).to_numpy()[rows]
    try:
        return fit_labels(inputs, labels, seed, lambda done, total: progress("labels", done, total))
    except ValueError as error:
        raise TableError(f"label column {table.label.name!r} cannot be learnt from: {error}") from None


def with_threshold(detector: Detector, table: EventTable, scores: np.ndarray) -> Detector:
    """The detector with the conformal threshold of its held-out scores, of all scores (rows,)."""
    split, options = detector.split, detector.options
    inside = (table.seconds >= split.threshold_from) & (table.seconds < split.test_from)
    scores = scores[inside]
    scores = scores[~np.isnan(scores)]
    if scores.size == 0:
        raise TableError("no held-out event can be scored, so there is no threshold: leave more time between "
                         "train_until and test_from")  # fmt: skip
    budget = options.budget
    if options.alerts_per_day is not None:
        days = (split.test_from - split.threshold_from) / DAY
        budget = min(options.alerts_per_day * days / inside.sum(), MOST_ALERTS)
    threshold = conformal(scores, budget)
    return dataclasses.replace(detector, threshold=threshold, threshold_events=scores.size, budget=budget)


def conformal(scores: np.ndarray, budget: float) -> float:
    """The threshold that leaves at most a share `budget` of what comes from the same source above it.

    Of n scores the ceil((n + 1)(1 - budget))-th smallest (Papadopoulos et al. 2002; Vovk et al. 2005); their highest,
    but no less than -log(budget), where n is too small for that.
    """
    place = math.ceil((scores.size + 1) * (1 - budget))
    if place > scores.size:
        return max(float(scores.max()), -math.log(budget))
    return float(np.partition(scores, place - 1)[place - 1])


def check_enough(table: EventTable, split: Split, options: FitOptions) -> None:
    """Refuse a table in which no entity has enough events to learn from."""
    counts = np.bincount(table.codes[table.seconds < split.train_until])
    if counts.max(initial=0) < options.min_events:
        raise TableError(
            f"no entity has {options.min_events} events in the training part, the most is {counts.max(initial=0)}: "
            "lower min_events or give a longer table"
        )
