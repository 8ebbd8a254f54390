"""Simpler detectors on the same features, and how all of them do on injected anomalies."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import polars as pl
from sklearn.ensemble import IsolationForest
from sklearn.impute import SimpleImputer

from gapcell.detect.events import EventTable
from gapcell.detect.features import Encoded, Encoding
from gapcell.detect.injection import KINDS, Injected, inject
from gapcell.detect.material import Material
from gapcell.detect.metrics import evaluate
from gapcell.detect.results import Comparison, Progress, silent
from gapcell.detect.scoring import Read, Scored, combine, decide, parts_of
from gapcell.detect.selection import fit_stream
from gapcell.detect.state import State
from gapcell.detect.streams import streams_of

MEMORY = 50  # earlier events that a running median looks back on
SHRINKAGE = 5.0  # events' worth of the population in an entity's own spread
DEVIATION = 1.4826  # of a normal distribution, over its median absolute deviation
TREES = 100


def compare(
    detector: State, judge: Callable[[EventTable], Scored], table: EventTable, progress: Progress
) -> Comparison:
    """Inject anomalies into the test part of a table and measure the detector beside simpler ones.

    The methods see the same features, scaled alike, and the same missing values: a robust z-score against the
    entity's own earlier events; an isolation forest fitted on the training part, with running medians, missing values
    imputed and flagged; the same network trained on x * mask, zeros for what is missing and no mask to tell; and the
    same heads without any history, which is the population alone. Each is given as it falls.

    Args:
        detector: fitted on `table`.
        judge: scores another table with it.
        table: the events the detector was fitted on.
        progress: called with the stage "baselines".

    Raises:
        TableError: when no entity has events both before and in the test part.
    """
    injected = inject(table, detector.split, detector.encoding.gap.unit, detector.options.seed)
    original, encoded = (encoded_events(detector, events) for events in (table, injected.table))
    itself = judge(injected.table)
    past = original.value[table.seconds[table.order] < detector.split.train_until]
    scores = {}
    methods = {
        "gapcell": lambda: itself.score,
        "network on x*mask": lambda: zero_filled(detector, table, injected.table),
        "heads without history": lambda: combine(np.where(detector.say, itself.population, np.nan)),
        "isolation forest": lambda: forest(detector, table, original, injected.table, encoded),
        "robust z-score": lambda: robust_z(detector.encoding, past, injected.table, encoded),
    }
    for number, (name, method) in enumerate(methods.items()):
        scores[name] = method()
        progress("baselines", number + 1, len(methods))
    missing = float(np.isnan(original.value).mean())
    note = f"missing: {missing:.1%} of the features' values in this table, which is all that mask and zeros differ in"
    return Comparison(measure(scores, injected, detector), (*injected.notes, note))


def measure(scores: dict[str, np.ndarray], injected: Injected, detector: State) -> pl.DataFrame:
    """`Comparison.frame`: average precision of each method on each kind, against the untouched test events."""
    untouched = (injected.table.seconds >= detector.split.test_from) & (injected.kind == "")
    rows = []
    for name, score in scores.items():
        for kind in (*KINDS, "all"):
            positive = np.isin(injected.kind, KINDS) if kind == "all" else injected.kind == kind
            known = positive | untouched
            found = evaluate(pl.Series(score[known]), pl.Series(positive[known]), detector.budget)
            rows.append((name, kind, found.average_precision, found.base_rate, int(positive.sum())))
    columns = {"method": pl.String, "kind": pl.String, "average_precision": pl.Float64, "base_rate": pl.Float64,
               "injected": pl.Int64}  # fmt: skip
    return pl.DataFrame(rows, schema=columns, orient="row").with_columns(pl.col("average_precision").fill_nan(None))


def encoded_events(detector: State, table: EventTable) -> Encoded:
    """The events of a table by entity and time, without reports."""
    features = tuple(feature for feature in detector.encoding.features if feature.kind != "reports")
    without = dataclasses.replace(detector.encoding, features=features, reports=False)
    return without.encode(table, streams_of(table, None)[0])


def zero_filled(detector: State, table: EventTable, injected: EventTable) -> np.ndarray:
    """The same network, trained and run on x * mask without the mask, by entity only: (rows,)."""
    network, options = detector.predictor.network, detector.options
    options = dataclasses.replace(options, encoder="none" if network is None else network.name)
    encoding, tails, flags = detector.encoding, detector.predictor.tails, detector.encoding.flags

    def material(events: EventTable) -> Material:
        stream = streams_of(events, options.label_delay)[0]
        made = Material.of(events, stream, encoding, detector.split, options.mixture_components, tails)
        return dataclasses.replace(made, sequences=made.sequences.without_mask(flags))

    fitted = fit_stream(material(table), options, silent)
    zeros = material(injected)
    read = Read(zeros.stream, zeros.sequences, zeros.targets, zeros.starts[1:], ~zeros.stream.report)
    parts = parts_of(fitted.predictor, read, len(injected.codes))
    return decide(parts.own, parts.population, detector.say[: parts.own.shape[1]]).score


def numbers(encoding: Encoding, past: np.ndarray, encoded: Encoded) -> np.ndarray:
    """Features as numbers (rows, F), NaN where missing: scaled values, and how rare a category is in the training part.

    Args:
        encoding: of the detector.
        past: (events, F), the values of the training part.
        encoded: the events.
    """
    columns = []
    for feature, was, now in zip(encoding.features, past.T, encoded.value.T, strict=True):
        if feature.scaling is not None:
            columns.append(now)
            continue
        counts = np.bincount(was[~np.isnan(was)].astype(int), minlength=max(feature.channels, 2)) + 1.0
        rarity = -np.log(counts / counts.sum())
        columns.append(np.where(np.isnan(now), np.nan, rarity[np.nan_to_num(now).astype(int)]))
    return np.stack(columns, 1)


def running(values: np.ndarray, table: EventTable) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each entity's last 50 earlier values: their median, median absolute deviation and number; (rows, F) sorted."""
    names = [str(number) for number in range(values.shape[1])]
    frame = pl.DataFrame(values, schema=names).fill_nan(None).with_columns(entity=table.codes[table.order])

    def median(column: pl.Expr) -> pl.Expr:
        return column.shift(1).rolling_median(MEMORY, min_samples=1).over("entity")

    centre = frame.select("entity", *(median(pl.col(name)) for name in names))
    away = frame.select("entity", *((pl.col(name) - centre[name]).abs() for name in names))
    spread = away.select(median(pl.col(name)) for name in names)
    there = (pl.col(name).is_not_null().cast(pl.Float64).shift(1, fill_value=0.0) for name in names)
    count = frame.select(one.rolling_sum(MEMORY, min_samples=1).over("entity") for one in there)
    return as_numpy(centre.drop("entity")), as_numpy(spread), as_numpy(count)


def in_table_order(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Values (rows, ...) sorted by entity and time, put back in the order of the table."""
    back = np.empty_like(values)
    back[order] = values
    return back


def as_numpy(frame: pl.DataFrame) -> np.ndarray:
    """Float64 columns as an array, NaN where null."""
    return frame.fill_null(float("nan")).to_numpy()


def robust_z(encoding: Encoding, past: np.ndarray, table: EventTable, encoded: Encoded) -> np.ndarray:
    """Largest |value - median| / spread over the features, of the entity's own earlier events: (rows,).

    The population, whose median is 0 and spread 1 on the scale of the features, counts as 5 more events in the spread,
    and stands in where there are no earlier ones.
    """
    values = numbers(encoding, past, encoded)
    centre, spread, count = running(values, table)
    spread = (count * np.nan_to_num(spread) * DEVIATION + SHRINKAGE) / (count + SHRINKAGE)
    z = np.abs(values - np.nan_to_num(centre)) / spread
    score = np.where(np.isnan(z), -np.inf, z).max(1)
    return in_table_order(np.where(np.isfinite(score), score, np.nan), table.order)


def forest(detector: State, table: EventTable, original: Encoded, injected: EventTable, encoded: Encoded) -> np.ndarray:
    """Isolation forest (Liu et al. 2008) on values, time since the last event and running medians: (rows,)."""
    training = table.seconds[table.order] < detector.split.train_until

    def features(events: EventTable, now: Encoded) -> np.ndarray:
        values = numbers(detector.encoding, original.value[training], now)
        return np.hstack([values, running(values, events)[0]])

    imputer = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    model = IsolationForest(n_estimators=TREES, random_state=detector.options.seed % 2**32)
    model.fit(imputer.fit_transform(features(table, original)[training]))
    return in_table_order(-model.score_samples(imputer.transform(features(injected, encoded))), injected.order)
