"""How well scores find labelled events, beside what a random score would have."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
from sklearn.metrics import average_precision_score, roc_auc_score

from gapcell.detect.results import Metrics


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
