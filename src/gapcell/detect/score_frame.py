"""What the estimator gives back: a row an event, with its score, each feature's surprise, and what was not scored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from gapcell.detect.events import GAP, EventTable
from gapcell.detect.padded import ArrayScores, Padded
from gapcell.detect.results import Feature
from gapcell.detect.scoring import Scored

SCORE = "score_"


@dataclass(frozen=True, eq=False)
class Judged:
    """A table as it was scored.

    Attributes:
        table: the events.
        features: all features, in the order of the parts of the score.
        scored: the scores, in the order of the table.
        threshold: a score above it alerts.
    """

    table: EventTable
    features: tuple[Feature, ...]
    scored: Scored
    threshold: float


def score_frame(judged: Judged) -> pl.DataFrame:
    """One row per event, in the order of the table.

    entity, time, score (Float64, null where nothing could be scored), alert (Boolean, never null), score_F for each
    scored feature F (Float64, the largest of its parts, null where not scored), not_scored (String: which features and
    why, null when every feature was scored).
    """
    scored = judged.scored
    both = np.fmax(scored.own, scored.population)  # NaN only where neither is there
    score = pl.Series(scored.score).fill_nan(None)
    columns = {
        "entity": judged.table.entity,
        "time": judged.table.time,
        "score": score,
        "alert": (score > judged.threshold).fill_null(value=False),
    }
    why = []
    for number, feature in enumerate(judged.features):
        if feature.scored:
            columns[SCORE + feature.name] = pl.Series(both[:, number]).fill_nan(None)
            why.append(pl.when(pl.col(SCORE + feature.name).is_null()).then(pl.lit(why_not(feature))))
    unscored = pl.concat_str(why, separator=", ", ignore_nulls=True)
    return pl.DataFrame(columns).with_columns(not_scored=pl.when(unscored != "").then(unscored))


def why_not(feature: Feature) -> str:
    """Why a feature of an event has no score."""
    if feature.stream is not None:
        return f"{feature.name}: missing, or no earlier event of its {feature.stream}"
    if feature.kind == "gap":
        return f"{feature.name}: no earlier event to measure the time from"
    return f"{feature.name} is missing"


def array_scores(judged: Judged | None, padded: Padded) -> ArrayScores:
    """The scores of arrays in their places; None stands for arrays in which nothing is observed."""
    nowhere = np.full(padded.shape[:2], np.nan)
    if judged is None:
        return ArrayScores(nowhere, np.full(padded.shape, np.nan), nowhere, nowhere == 0, {})
    frame = score_frame(judged)

    def spread(name: str) -> np.ndarray:
        if name not in frame.columns:
            return nowhere
        return padded.spread(frame[name].cast(pl.Float64).fill_null(float("nan")).to_numpy(), np.nan)

    scored = [feature for feature in judged.features if SCORE + feature.name in frame.columns]
    missing = {why_not(feature): frame[SCORE + feature.name].null_count() for feature in scored}
    return ArrayScores(
        score=spread("score"),
        features=np.stack([spread(SCORE + column.name) for column in padded.columns], -1),
        since_last=spread(SCORE + GAP),
        alert=padded.spread(frame["alert"].to_numpy(), filling=False),
        not_scored={why: count for why, count in missing.items() if count},
    )
