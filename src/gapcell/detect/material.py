"""What is fitted to: the places of a stream as numbers, and which of them may be looked at."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gapcell.detect import distributions
from gapcell.detect.events import EventTable
from gapcell.detect.features import Encoding
from gapcell.detect.heads import Head, Tail, Targets, candidate_heads, log_likelihoods
from gapcell.detect.model import Sequences
from gapcell.detect.results import Split
from gapcell.detect.streams import Stream


@dataclass(frozen=True, eq=False)
class Material:
    """The places of a stream, sorted by series and time.

    Attributes:
        sequences: what the network reads.
        targets: what it is to predict.
        labels: (places,) float32, 0 or 1, NaN where unknown or not to be learnt, and for reports.
        stream: the series.
        split: where time is cut; nothing from `threshold_from` on is used.
        encoding: how each feature is encoded.
        heads: the candidates.
        tails: which side of each feature is anomalous.
    """

    sequences: Sequences
    targets: Targets
    labels: Tensor
    stream: Stream
    split: Split
    encoding: Encoding
    heads: tuple[Head, ...]
    tails: tuple[Tail, ...]

    @classmethod
    def of(
        cls, table: EventTable, stream: Stream, encoding: Encoding, split: Split, components: int,
        tails: tuple[Tail, ...], learnt: np.ndarray | None = None,
    ) -> Material:  # fmt: skip
        """The material of a stream.

        Args:
            table: the events.
            stream: one of its streams.
            encoding: fitted on it.
            split: where time is cut.
            components: Gaussians in a mixture.
            tails: which side of each of the encoding's features is anomalous.
            learnt: (rows,) bool, True where a row's label may be learnt; None leaves labels out.
        """
        encoded = encoding.encode(table, stream)
        labels = np.full(len(stream.row), np.nan, dtype=np.float32)
        if learnt is not None and table.label is not None:
            known = table.label.cast(float).fill_null(math.nan).to_numpy()
            labels = np.where(stream.report | ~learnt[stream.row], np.nan, known[stream.row]).astype(np.float32)
        return cls(
            Sequences.of(encoded, stream.seconds), Targets.of(encoded), torch.from_numpy(labels), stream, split,
            encoding, candidate_heads(encoding.features, components), tails,
        )  # fmt: skip

    @property
    def starts(self) -> np.ndarray:
        """(series + 1,) int64, where each series begins."""
        return self.stream.starts

    @property
    def happens(self) -> Tensor:
        """(places,) bool, True where an event happens."""
        return torch.from_numpy(~self.stream.report)

    def ends(self, until: float) -> np.ndarray:
        """One past the last place before `until` of each series: (series,) int64."""
        return self.stream.ends(until)

    def open_gaps(self, last: np.ndarray) -> Tensor:
        """Scaled time to the end of training from the last event at these places: the next is at least that far off."""
        waited = self.split.train_until - self.stream.last_event[last]
        return torch.from_numpy(self.encoding.gap.forward(waited)).float()

    def values(self, places: Tensor | np.ndarray, draws: np.random.Generator) -> Tensor:
        """Targets float32 with numbers spread evenly over the step they were rounded to.

        Without it a density grows without bound on values that repeat, and the likelihood is all about them.
        """
        below, above = self.targets.below[places], self.targets.above[places]
        share = torch.from_numpy(draws.random(below.shape))
        return (below + share * (above - below)).float()

    @property
    def gap_head(self) -> Head:
        """The head of the time since the last event."""
        return next(head for head in self.heads if self.encoding.features[head.feature].kind == "gap")


def log_survival(head: Head, parameters: Tensor, z: Tensor) -> Tensor:
    """Log probability (...) that a gap is longer than z (...), under all parameters (..., all)."""
    return distributions.mixture_log_tails(head.of(parameters), z)[1]


def summed_likelihoods(heads: tuple[Head, ...], parameters: Tensor, values: Tensor) -> Tensor:
    """Summed log likelihood under each head: (heads,) from parameters (..., all) and values (..., features)."""
    return log_likelihoods(heads, parameters, values).flatten(1).sum(1)


def weighted(heads: tuple[Head, ...], likelihoods: Tensor) -> Tensor:
    """Sum over features of the mean over each feature's candidate families."""
    families = np.bincount([head.feature for head in heads])
    return sum(
        (likelihood / int(families[head.feature]) for head, likelihood in zip(heads, likelihoods, strict=True)),
        torch.zeros(()),
    )


def known_by_head(heads: tuple[Head, ...], values: Tensor) -> np.ndarray:
    """How many values each head predicts: (heads,)."""
    known = (~torch.isnan(values)).flatten(0, -2).sum(0).numpy()
    return known[[head.feature for head in heads]]


def mean_over_features(heads: tuple[Head, ...], by_head: np.ndarray) -> float:
    """Mean over features of the better family's negative log-likelihood."""
    features = sorted({head.feature for head in heads})
    return float(np.mean([min(by_head[i] for i, head in enumerate(heads) if head.feature == f) for f in features]))
