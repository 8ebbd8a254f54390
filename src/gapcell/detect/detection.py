"""A table scored, with all that a report shows of it: the making of a `Detection`."""

from __future__ import annotations

import numpy as np
import polars as pl

from gapcell.detect.calibration import distances
from gapcell.detect.events import GAP, EventTable
from gapcell.detect.metrics import evaluate
from gapcell.detect.reasons import expectation_columns, reasons
from gapcell.detect.results import Aside, Detection, Summary
from gapcell.detect.scorer import Scorer
from gapcell.detect.scoring import Read, Scored, band, bands


def detection_of(detector: Scorer, table: EventTable, top: int) -> Detection:
    """Every event scored: `Detector.score`."""
    reads = detector.reads(table)
    scored = detector.explained(detector.judge(table, reads), reads)
    aside = aside_of(detector, reads, scored)
    frame = frame_of(detector, table, scored, aside)
    highest = highest_alerts(frame, top)
    metrics = None
    if table.label is not None:
        test = frame["part"] == "test"
        metrics = evaluate(frame["score"].filter(test), table.label.filter(test), detector.budget)
    return Detection(
        frame=frame,
        table=table,
        features=detector.features,
        threshold=detector.threshold,
        budget=detector.budget,
        split=detector.split,
        epochs=detector.epochs,
        lengths=Summary.of(np.diff(table.starts).astype(float)),
        gaps=Summary.of(table.since_last()),
        no_history=len(table.starts) - 1,
        unscored=frame["score"].null_count(),
        top=highest,
        bands=bands_of(detector, table, reads, highest["row"].to_list()),
        metrics=metrics,
        notes=notes_of(detector, frame),
        common=common_of(detector, table),
        candidates=detector.candidates,
        distances=distances_of(detector, table, reads),
        aside=aside,
    )


def frame_of(detector: Scorer, table: EventTable, scored: Scored, aside: Aside) -> pl.DataFrame:
    """`Detection.frame`."""
    score = pl.Series(scored.score).fill_nan(None)
    features = detector.features
    names = np.array([feature.name for feature in features] + [None], dtype=object)
    columns = {
        "entity": table.entity,
        "time": table.time,
        "score": score,
        "alert": (score > detector.threshold).fill_null(value=False),
        "part": pl.Series(detector.split.parts(table.seconds).tolist(), dtype=pl.String),
        "history": table.earlier(),
        "feature": pl.Series(names[scored.feature].tolist(), dtype=pl.String),
        "reason": reasons(table, detector.specs, features, scored, aside),
    }
    for number, feature in enumerate(features):
        columns[f"score_own_{feature.name}"] = pl.Series(scored.own[:, number]).fill_nan(None)
        columns[f"score_population_{feature.name}"] = pl.Series(scored.population[:, number]).fill_nan(None)
    return pl.DataFrame(columns)


def aside_of(detector: Scorer, reads: tuple[Read, ...], scored: Scored) -> Aside:
    """What reasons need beside the columns: times and reports of the streams, and a supervised probability."""
    derived = {}
    names = iter(feature.name for feature in detector.features)
    for model, read in zip(detector.streams, reads, strict=True):
        for spec in model.encoding.features:
            name, stream = next(names), read.stream
            if spec.kind in ("gap", "reports") and name != GAP:
                values = np.full(len(scored.score), np.nan)
                came = stream.since_last() if spec.kind == "gap" else stream.recent_reports
                values[stream.row[stream.happens]] = came[stream.happens]
                derived[name] = values
    return Aside(derived, None if detector.labels is None else -np.expm1(-scored.score))


def bands_of(detector: Scorer, table: EventTable, reads: tuple[Read, ...], rows: list[int]) -> pl.DataFrame:
    """`Detection.bands` for the series of these rows."""
    frame = pl.DataFrame({"row": pl.Series([], dtype=pl.Int64)})
    names = iter(feature.name for feature in detector.features)
    for model, read in zip(detector.streams, reads, strict=True):
        wanted = np.flatnonzero(np.isin(read.stream.row, rows))
        series = np.unique(np.searchsorted(read.stream.starts, wanted, side="right") - 1)
        found = bands(model.predictor, read, series)
        for number, spec in enumerate(model.encoding.features):
            name, ends = next(names), found.get(number)
            if ends is None:
                continue
            columns = expectation_columns(table, spec, ends[:, 1], ends[:, 2], name)
            each = pl.DataFrame({"row": ends[:, 0].astype(np.int64), **columns})
            frame = frame.join(each, on="row", how="full", coalesce=True)
    return frame.sort("row")


def distances_of(detector: Scorer, table: EventTable, reads: tuple[Read, ...]) -> pl.DataFrame:
    """`Detection.distances`."""
    parts = detector.split.parts(table.seconds)
    judged = parts == ("test" if (parts == "test").any() else "held-out")
    frames, first = [], 0
    for model, read in zip(detector.streams, reads, strict=True):
        places = judged[read.stream.row] & ~read.stream.report
        found = distances(model.predictor, read, places, detector.options.seed)
        frames.append(found.with_columns(pl.col("feature") + first))
        first += len(model.encoding.features)
    return pl.concat(frames)


def common_of(detector: Scorer, table: EventTable) -> pl.DataFrame:
    """`Detection.common`."""
    columns = {}
    names = iter(feature.name for feature in detector.features)
    for model in detector.streams:
        for spec, head in zip(model.encoding.features, model.predictor.common, strict=True):
            ends = band(head, head.of(model.predictor.population)[None])
            columns |= expectation_columns(table, spec, *ends, next(names))
    return pl.DataFrame(columns)


def notes_of(detector: Scorer, frame: pl.DataFrame) -> tuple[str, ...]:
    """What should be said about the threshold and the alerts."""
    budget, events = detector.budget, detector.threshold_events
    said = [f"the threshold leaves a share of {budget:g} of {events:,} held-out scores above it, which no fit has seen"]
    if budget * events < 1:
        said = [
            f"{events:,} held-out events are too few for a budget of 1 in {1 / budget:,.0f}: the threshold is "
            "their highest score, or what the budget is under a perfect model where that is higher"
        ]
    test = frame.filter(pl.col("part") == "test")
    if test.height:
        alerts = int(test["alert"].sum())
        said.append(f"{alerts:,} of {test.height:,} test events alert, where the budget allows "
                    f"{budget * test.height:,.1f}")  # fmt: skip
    return tuple(said)


def highest_alerts(frame: pl.DataFrame, top: int) -> pl.DataFrame:
    """`Detection.top`: the highest alerts of the test part, or of all parts when none is in the test part."""
    parts = [name for name in frame.columns if name.startswith(("score_own_", "score_population_"))]
    alerts = frame.drop(parts).with_columns(row=pl.int_range(pl.len(), dtype=pl.Int64)).filter("alert")
    test = alerts.filter(pl.col("part") == "test")
    return (test if test.height else alerts).sort("score", descending=True, maintain_order=True).head(top)
