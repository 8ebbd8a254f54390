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
    columns = {
        "entity": judged.table.entity,
        "time": judged.table.time,
        "score": pl.Series(scored.score, nan_to_null=True),
        "alert": scored.score > judged.threshold,
    }
    told = [number for number, feature in enumerate(judged.features) if feature.scored]
    for number in told:
        columns[SCORE + judged.features[number].name] = pl.Series(both[:, number], nan_to_null=True)
    whys = [why_not(judged.features[number]) for number in told]
    columns["not_scored"] = pl.Series(reasons_for(np.isnan(both[:, told]), whys), dtype=pl.String)
    return pl.DataFrame(columns)


def reasons_for(missing: np.ndarray, whys: list[str]) -> list[str | None]:
    """What the missing features (rows, F) of each row say together, None for a row without any."""
    if not missing.any():
        return [None] * len(missing)
    different, place = np.unique(missing, axis=0, return_inverse=True)
    texts = [", ".join(why for why, gone in zip(whys, row, strict=True) if gone) or None for row in different]
    return np.array([*texts, None], dtype=object)[place.ravel()].tolist()


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
