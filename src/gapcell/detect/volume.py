"""VUS-PR: how well the scores of one series find its labelled ranges, whose borders are soft.

Paparrizos et al., "Volume Under the Surface: A New Accuracy Evaluation Measure for Time-Series Anomaly Detection",
PVLDB 15 (2022). A step beside a labelled range counts in part, so that a score which rises a little early or late is
not punished, and the area under the precision-recall curve is averaged over how far "beside" reaches. No threshold is
chosen, and nothing is point-adjusted, which lets random scores look good.
"""

from __future__ import annotations

import numpy as np

THRESHOLDS = 250


def volume_under_pr(label: np.ndarray, score: np.ndarray, buffer: int = 100, thresholds: int = THRESHOLDS) -> float:
    """VUS-PR of one series, from 0 to 1: the mean of the areas for every length of the border, 0 to `buffer`.

    Args:
        label: (steps,) bool or 0/1, True in the labelled ranges.
        score: (steps,) higher is more anomalous.
        buffer: the longest border; the period of the series where it has one.
        thresholds: how many of the scores, evenly spaced by rank, are tried as thresholds.

    Raises:
        ValueError: when the shapes differ, a score is NaN, nothing is labelled, or a number is too small.
    """
    label, score = np.asarray(label).astype(bool), np.asarray(score, dtype=np.float64)
    if label.ndim != 1 or label.shape != score.shape:
        raise ValueError(f"label and score must both be (steps,), got {label.shape} and {score.shape}")
    if np.isnan(score).any():
        raise ValueError(f"score is NaN at step {int(np.isnan(score).argmax())}: leave out the steps without a score")
    if not label.any():
        raise ValueError("label is True nowhere: there is nothing to be found")
    if buffer < 0 or thresholds < 1:
        raise ValueError(f"buffer (={buffer}) must be at least 0 and thresholds (={thresholds}) at least 1")
    order = np.argsort(-score, kind="stable")
    tried = score[order][np.linspace(0, len(score) - 1, thresholds).astype(int)]
    reached = np.searchsorted(-score[order], -tried, "right")  # so many scores are no lower; ties reach it together
    first, last = labelled_ranges(label)
    hard = np.cumsum(label[order])[reached - 1]
    areas = []
    for length in range(buffer + 1):
        hits = np.cumsum(softened(label, first, last, length)[order])[reached - 1]
        recall = np.minimum(hits / (label.sum() + (hits - hard) / 2), 1) * share_found(
            score, tried, first, last, length
        )
        areas.append(float(np.diff(recall, prepend=0) @ (hits / reached)))
    return float(np.mean(areas))


def labelled_ranges(label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last step of every run of True: int64 (ranges,) each."""
    edges = np.diff(np.concatenate([[0], label.astype(np.int8), [0]]))
    return np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1


def softened(label: np.ndarray, first: np.ndarray, last: np.ndarray, length: int) -> np.ndarray:
    """The label (steps,) with borders: sqrt(1 - d / length) at a distance d <= length // 2 from a range."""
    soft = label.astype(np.float64)
    for begin, end in zip(first, last, strict=True):
        after = np.arange(end + 1, min(end + length // 2 + 1, len(label)))
        soft[after] += np.sqrt(1 - (after - end) / max(length, 1))
        before = np.arange(max(begin - length // 2, 0), begin)
        soft[before] += np.sqrt(1 - (begin - before) / max(length, 1))
    return np.minimum(soft, 1)


def share_found(score: np.ndarray, tried: np.ndarray, first: np.ndarray, last: np.ndarray, length: int) -> np.ndarray:
    """Share of the ranges, those whose borders meet being one, in which some score reaches a threshold: (tried,)."""
    apart = last[:-1] + length // 2 < first[1:] - length // 2
    begin = np.maximum(first[np.append(True, apart)] - length // 2, 0)
    end = last[np.append(apart, True)] + length // 2 + 1
    highest = np.array([score[low:high].max() for low, high in zip(begin, end, strict=True)])
    return (highest[:, None] >= tried).mean(0)
