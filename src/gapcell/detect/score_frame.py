"""What the estimator gives back: a row an event, with its score, each feature's surprise, and what was not scored."""

from __future__ import annotations

import numpy as np
import polars as pl

from gapcell.detect.events import GAP
from gapcell.detect.padded import ArrayScores, Padded
from gapcell.detect.results import Detection, Feature

SCORE = "score_"


def score_frame(detection: Detection) -> pl.DataFrame:
    """One row per event, in the order of the table.

    entity, time, score (Float64, null where nothing could be scored), alert (Boolean, never null), score_F for each
    scored feature F (Float64, the largest of its parts, null where not scored), not_scored (String: which features and
    why, null when every feature was scored).
    """
    parts = parts_of(detection)
    # a part may be -0.0, which reads oddly
    surprises = [pl.max_horizontal(columns).abs().alias(SCORE + name) for name, columns in parts.items()]
    why = [pl.when(pl.col(SCORE + feature.name).is_null()).then(pl.lit(why_not(feature)))
           for feature in detection.features if feature.name in parts]  # fmt: skip
    found = detection.frame.select("entity", "time", "score", "alert", *surprises)
    unscored = pl.concat_str(why, separator=", ", ignore_nulls=True)
    return found.with_columns(not_scored=pl.when(unscored != "").then(unscored))


def parts_of(detection: Detection) -> dict[str, list[str]]:
    """For each feature that is judged, the columns of `Detection.frame` that do so, named score_JUDGE_FEATURE."""
    names = [feature.name for feature in detection.features]
    parts: dict[str, list[str]] = {name: [] for name in names}
    for column in detection.frame.columns:
        judged = [name for name in names if column.startswith(SCORE) and column[len(SCORE) + 1 :].endswith(f"_{name}")]
        if judged:
            parts[max(judged, key=len)].append(column)
    return {name: columns for name, columns in parts.items() if columns}


def why_not(feature: Feature) -> str:
    """Why a feature of an event has no score."""
    if feature.kind == "gap":
        return f"{feature.name}: no earlier event to measure the time from"
    return f"{feature.name} is missing"


def array_scores(detection: Detection | None, padded: Padded) -> ArrayScores:
    """The scores of arrays in their places; None stands for arrays in which nothing is observed."""
    nowhere = np.full(padded.shape[:2], np.nan)
    if detection is None:
        return ArrayScores(nowhere, np.full(padded.shape, np.nan), nowhere, nowhere == 0, {})
    frame = score_frame(detection)

    def spread(name: str) -> np.ndarray:
        if name not in frame.columns:
            return nowhere
        return padded.spread(frame[name].cast(pl.Float64).fill_null(float("nan")).to_numpy(), np.nan)

    scored = [feature for feature in detection.features if SCORE + feature.name in frame.columns]
    missing = {why_not(feature): frame[SCORE + feature.name].null_count() for feature in scored}
    return ArrayScores(
        score=spread("score"),
        features=np.stack([spread(SCORE + column.name) for column in padded.columns], -1),
        since_last=spread(SCORE + GAP),
        alert=padded.spread(frame["alert"].to_numpy(), filling=False),
        not_scored={why: count for why, count in missing.items() if count},
    )
