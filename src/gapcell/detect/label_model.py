"""The probability of a label, from what all streams say of an event: a forest on top of the encoders.

Extremely randomised trees (Geurts, Ernst and Wehenkel 2006), grown by scikit-learn and kept as perfect binary trees:
node i has the children 2i + 1 and 2i + 2, and where a branch ends early everything goes left. So a model is three
arrays of known shapes, and one from an untrusted file cannot lead anywhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor

TREES, DEPTH = 100, 12
NODES, LEAVES = 2**DEPTH - 1, 2**DEPTH
FEWEST_IN_A_LEAF = 3
INPUTS_TRIED = 0.5  # of all, at each node
TREES_AT_ONCE = 10  # between two words of progress
MOST_OTHERS = 200_000  # events without the label that trees are grown on; more are drawn from, and weighted
LEAST_POSITIVES = 2
EVENTS_AT_ONCE = 4096
EVERYTHING = float(np.finfo(np.float32).max)  # the threshold of a node that sends all to the left


@dataclass(frozen=True, eq=False)
class LabelModel:
    """The mean of the probabilities that trees give.

    Attributes:
        feature: (trees, nodes) int64, the input that a node looks at.
        threshold: (trees, nodes) float32; up to it an event goes left.
        value: (trees, leaves) float32, the probability of the label in a leaf.
    """

    feature: np.ndarray
    threshold: np.ndarray
    value: np.ndarray

    @staticmethod
    def shapes() -> dict[str, tuple[int, int]]:
        """Names and shapes of the arrays."""
        return {"feature": (TREES, NODES), "threshold": (TREES, NODES), "value": (TREES, LEAVES)}

    def tensors(self) -> dict[str, Tensor]:
        """The arrays as float32 tensors, which hold them exactly."""
        return {name: torch.from_numpy(getattr(self, name).astype(np.float32)) for name in self.shapes()}

    @classmethod
    def of(cls, tensors: dict[str, Tensor], inputs: int) -> LabelModel:
        """The model of tensors of the right names and shapes.

        Raises:
            ValueError: a node looks at no input, or a leaf holds no probability.
        """
        feature, threshold, value = (tensors[name].numpy() for name in cls.shapes())
        if not ((feature >= 0) & (feature < inputs) & (feature == np.floor(feature))).all():
            raise ValueError(f"a tree looks at an input that is none of the {inputs}")
        if not ((value > 0) & (value < 1)).all():
            raise ValueError("a leaf holds no probability between 0 and 1")
        return cls(feature.astype(np.int64), threshold, value)

    def log_odds(self, x: np.ndarray) -> np.ndarray:
        """Log odds (n,) float64 of the label from x (n, K)."""
        pieces = [self._probability(x[at : at + EVENTS_AT_ONCE]) for at in range(0, len(x), EVENTS_AT_ONCE)]
        p = np.concatenate(pieces or [np.empty(0)])
        return np.log(p) - np.log1p(-p)

    def _probability(self, x: np.ndarray) -> np.ndarray:
        """The mean probability (n,) of x (n, K)."""
        x, rows = x.astype(np.float32), np.arange(len(x))
        total = np.zeros(len(x))
        for feature, threshold, value in zip(self.feature, self.threshold, self.value, strict=True):
            node = np.zeros(len(x), dtype=np.int64)
            for _ in range(DEPTH):
                node = 2 * node + 1 + (x[rows, feature[node]] > threshold[node])
            total += value[node - NODES]
        return total / len(self.value)


def label_inputs(odds: np.ndarray, parts: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """What is known of each event as numbers (rows, K) float64; what is missing is 0, with a flag that says so.

    Args:
        odds: (rows, streams), the log odds that each stream's network gives, NaN where it has none.
        parts: (rows, P), all parts of the score, NaN where missing.
        inputs: (rows, channels), what the network of the entities reads of the event itself.
    """
    known = np.concatenate([odds, np.log1p(parts)], 1)
    there = ~np.isnan(known)
    return np.concatenate([np.where(there, known, 0.0), there, inputs], 1)


def fit_labels(x: np.ndarray, labels: np.ndarray, seed: int, progress: Callable[[int, int], None]) -> LabelModel:
    """Grow the trees.

    Args:
        x: (events, K) of the training events whose label is known.
        labels: (events,) bool.
        seed: of every draw.
        progress: told of the trees that stand.

    Raises:
        ValueError: fewer than two labelled events, or none that is not.
    """
    positives = int(labels.sum())
    if positives < LEAST_POSITIVES or positives == len(labels):
        raise ValueError(f"{positives:,} of the {len(labels):,} training events with a known label are labelled")
    base, others = positives / len(labels), np.flatnonzero(~labels)
    drawn = np.sort(np.random.default_rng(seed).permutation(others)[:MOST_OTHERS])
    rows = np.sort(np.concatenate([np.flatnonzero(labels), drawn]))
    weight = np.where(labels[rows], 1.0, len(others) / len(drawn))
    forest = ExtraTreesClassifier(
        0, max_depth=DEPTH, min_samples_leaf=FEWEST_IN_A_LEAF, max_features=INPUTS_TRIED, warm_start=True,
        random_state=seed,
    )  # fmt: skip
    for trees in range(TREES_AT_ONCE, TREES + 1, TREES_AT_ONCE):
        forest.set_params(n_estimators=trees)
        forest.fit(x[rows].astype(np.float32), labels[rows], sample_weight=weight)
        progress(trees, TREES)
    return LabelModel(*(np.stack(arrays) for arrays in zip(*(perfect(tree, base) for tree in forest), strict=True)))


def perfect(grown: DecisionTreeClassifier, base: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A tree as a perfect one: features and thresholds (nodes,), and the values (leaves,).

    A leaf's share of labelled events is drawn to `base`, that of all events, by the weight of one: an event is never
    certain, and a leaf that many events agree on says more than one of a few.
    """
    tree: Any = grown.tree_  # whose arrays scikit-learn documents, and no stub lists
    thresholds = tree.threshold.astype(np.float32)
    above = thresholds.astype(np.float64) > tree.threshold  # rounded down, float32 inputs go where they went
    thresholds[above] = np.nextafter(thresholds[above], np.float32(-np.inf))
    share = tree.value[:, 0, 1] / tree.value[:, 0].sum(-1)
    weight = tree.weighted_n_node_samples
    values = (share * weight + base) / (weight + 1)
    feature, threshold = np.zeros(NODES, dtype=np.int64), np.full(NODES, EVERYTHING, dtype=np.float32)
    node = np.zeros(1, dtype=np.int64)  # of the grown tree, at each place of a level; it stays where a branch ends
    for level in range(DEPTH):
        inner = tree.children_left[node] >= 0
        at = 2**level - 1 + np.flatnonzero(inner)
        feature[at], threshold[at] = tree.feature[node[inner]], thresholds[node[inner]]
        left = np.where(inner, tree.children_left[node], node)
        right = np.where(inner, tree.children_right[node], node)
        node = np.stack([left, right], 1).ravel()
    return feature, threshold, values[node].astype(np.float32)
