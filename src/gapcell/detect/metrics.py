"""How well scores find labelled events, beside what a random score would have."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import polars as pl
from sklearn.metrics import average_precision_score, roc_auc_score

from gapcell.detect.results import Metrics

SECONDS_A_DAY = 86_400


def evaluate(scores: pl.Series, labels: pl.Series, budget: float) -> Metrics:
    """Measure scores against labels; events without a score or without a label are left out.

    Args:
        scores: (events,) Float64, higher is more anomalous, null or NaN where unscorable.
        labels: (events,) Boolean, null where unknown.
        budget: share of the events whose precision is wanted, those of the highest scores (ties: the first ones).
    """
    known = pl.DataFrame({"score": scores.cast(pl.Float64).fill_nan(None), "label": labels}).drop_nulls()
    score, label = known["score"].to_numpy(), known["label"].to_numpy()
    positives = int(label.sum())
    alerts = min(len(label), math.ceil(budget * len(label)))
    highest = np.argsort(-score, kind="stable")[:alerts]
    return Metrics(
        labelled=len(label),
        positives=positives,
        average_precision=float(average_precision_score(label, score)) if positives else math.nan,
        roc_auc=float(roc_auc_score(label, score)) if 0 < positives < len(label) else math.nan,
        precision_at_budget=float(label[highest].mean()) if alerts else math.nan,
        alerts_at_budget=alerts,
        base_rate=positives / len(label) if len(label) else math.nan,
    )


@dataclass(frozen=True)
class Daily:
    """How good the k highest scores of each day are, as those see it who can look at k a day.

    Attributes:
        k: how many are looked at a day.
        days: days with at least one labelled event or entity.
        looked_at: how many were looked at over all days; fewer than k * days where a day has fewer.
        found: how many of them are true.
        positives: how many are true over all days.
        precision: mean over the days of found / k; NaN without days. A day with fewer than k counts as if the rest were
            false, as the Fraud Detection Handbook does it.
        chance: what a random order would have.
    """

    k: int
    days: int
    looked_at: int
    found: int
    positives: int
    precision: float
    chance: float


def precision_a_day(
    scores: pl.Series,
    labels: pl.Series,
    seconds: np.ndarray,
    k: int,
    *,
    entities: pl.Series | None = None,
    once: bool = False,
) -> Daily:
    """Precision of the k highest scores of each day; events without a score or without a label are left out.

    Args:
        scores: (events,) Float64, higher is more anomalous, null or NaN where unscorable.
        labels: (events,) Boolean, null where unknown.
        seconds: (events,) float64, the times; a day is 86,400 seconds from 0 on.
        k: how many can be looked at a day.
        entities: (events,) whose they are. Given: it is entities that are looked at, by the highest score of their
            events of the day, and one is true when any of these is (card precision, where the entity is a card).
        once: an entity that was looked at and is true is looked at no more on later days; needs `entities`.

    Raises:
        ValueError: when k is below 1, or `once` is asked for without entities.
    """
    if k < 1:
        raise ValueError(f"k (={k}) must be at least 1: that many are looked at a day")
    if once and entities is None:
        raise ValueError("once (=True) speaks of entities: give them too")
    whose = pl.int_range(len(scores), eager=True) if entities is None else entities
    scores, day = scores.cast(pl.Float64).fill_nan(None), np.floor(seconds / SECONDS_A_DAY).astype(np.int64)
    each = (
        pl.DataFrame({"score": scores, "label": labels, "day": day, "whose": whose})
        .drop_nulls(["score", "label"])
        .group_by("day", "whose", maintain_order=True)
        .agg(pl.max("score"), pl.any("label"))
        .sort("day", maintain_order=True)
    )
    days = [day for _, day in each.group_by("day", maintain_order=True)]
    looked_at, found, there, true = looked_through(days, k, once=once)
    return Daily(
        k=k,
        days=len(days),
        looked_at=int(looked_at.sum()),
        found=int(found.sum()),
        positives=int(true.sum()),
        precision=float(np.mean(found / k)) if days else math.nan,
        chance=float(np.mean(true / np.maximum(there, 1) * looked_at / k)) if days else math.nan,
    )


def looked_through(days: list[pl.DataFrame], k: int, *, once: bool) -> np.ndarray:
    """(4, days) int64: how many were looked at, how many of them are true, and the same of all that were there.

    Args:
        days: in their order, one row an event or entity: score, label and whose.
        k: how many are looked at a day.
        once: leave out on later days who was looked at and is true.
    """
    gone: list[object] = []
    counts = []
    for day in days:
        left = day.filter(~pl.col("whose").is_in(gone)) if gone else day
        top = left.sort("score", descending=True, maintain_order=True).head(k)
        counts.append((top.height, int(top["label"].sum()), left.height, int(left["label"].sum())))
        if once:
            gone += top.filter("label")["whose"].to_list()
    return np.array(counts, dtype=np.int64).reshape(-1, 4).T


def alerts_a_day(alerts: pl.Series, seconds: np.ndarray) -> pl.DataFrame:
    """How many events alert on each day from the first to the last, also on those with none.

    Args:
        alerts: (events,) Boolean.
        seconds: (events,) float64, the times; a day is 86,400 seconds from 0 on.

    Returns:
        Columns day (Int64, seconds / 86,400), events and alerts (Int64).
    """
    day = np.floor(seconds / SECONDS_A_DAY).astype(np.int64)
    if day.size == 0:
        return pl.DataFrame(schema={"day": pl.Int64, "events": pl.Int64, "alerts": pl.Int64})
    first = int(day.min())
    events = np.bincount(day - first)
    alerted = np.bincount(day - first, weights=alerts.to_numpy()).astype(np.int64)
    return pl.DataFrame({"day": np.arange(first, first + len(events)), "events": events, "alerts": alerted})
