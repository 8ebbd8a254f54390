"""What the held-out events say: of an epoch, of an encoder, and of the families of the heads."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gapcell.detect.batch import Batch
from gapcell.detect.calibration import exceedances
from gapcell.detect.distributed import ALONE, Ranks
from gapcell.detect.heads import Head, surprise
from gapcell.detect.material import Material, known_by_head, mean_over_features, summed_likelihoods
from gapcell.detect.model import Network
from gapcell.detect.options import FitOptions
from gapcell.detect.series import Chunks, batches, cut

HELD_OUT_EVENTS = 100_000  # at most, to judge an epoch
HELD_OUT_BATCH = 16_384  # events, padding counted
FEWEST = 5  # events that a level of the calibration should let through; rarer levels say nothing
SAME = 0.1  # two families this close in calibration are told apart by likelihood


@dataclass(frozen=True, eq=False)
class Judgement:
    """How well held-out events were predicted.

    Attributes:
        by_head: (heads,) mean negative log-likelihood under each head.
        value: what is compared, with labels and without: the mean over features of the better family's.
        calibration: (heads,) how far the stated probabilities of rare values lie from how often those came, in
            absolute logarithms; 0 where there are too few events to say.
        events: how many were judged.
    """

    by_head: np.ndarray
    value: float
    calibration: np.ndarray
    events: int


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The held-out events that judge, with one fixed draw of where in its step each number lies."""

    chunks: Chunks
    groups: list[np.ndarray]
    seed: int

    @classmethod
    def of(cls, material: Material, options: FitOptions) -> HeldOut:
        """Held-out events before `threshold_from` of all series, with the history before them."""
        split = material.split
        chunks = cut(material.starts[:-1], material.ends(split.threshold_from), options.window)
        chunks = chunks.at(np.flatnonzero(material.stream.seconds[chunks.end - 1] >= split.train_until))
        drawn = np.random.default_rng(options.seed).permutation(len(chunks))
        lengths = (chunks.end - chunks.begin)[drawn]
        chunks = chunks.at(np.sort(drawn[np.cumsum(lengths) - lengths < HELD_OUT_EVENTS]))
        return cls(chunks, batches(chunks, HELD_OUT_BATCH), options.seed)

    def judge(
        self, network: Network, material: Material, *, calibrated: bool = False, ranks: Ranks = ALONE
    ) -> Judgement:
        """Judge a network, several processes together; one that is alone, with `calibrated`, also its rare values."""
        network.eval()

        def predict(chunk: Chunks, places: Tensor) -> Tensor:
            return network(material.sequences, places, torch.from_numpy(chunk.end - chunk.begin))[:, :-1]

        return self.mean(material, predict, calibrated=calibrated, ranks=ranks)

    def judge_population(self, population: Tensor, material: Material) -> Judgement:
        """Judge the population's parameters (all,)."""
        return self.mean(material, lambda chunk, places: population.expand(*places.shape, -1), calibrated=True)

    @torch.no_grad()
    def mean(
        self,
        material: Material,
        predict: Callable[[Chunks, Tensor], Tensor],
        *,
        calibrated: bool,
        ranks: Ranks = ALONE,
    ) -> Judgement:
        """Judge the parameters (..., all) that are predicted for places (...)."""
        draws = np.random.default_rng(self.seed)
        heads = material.heads
        total, counted, events = np.zeros(len(heads)), np.zeros(len(heads)), 0
        surprises: list[list[Tensor]] = [[] for _ in heads]
        for group in self.groups:
            batch = Batch.of(material, self.chunks.at(group), draws, material.split.train_until)
            events += batch.events
            batch = batch.share(ranks)
            if not len(batch.chunks):
                continue
            parameters = predict(batch.chunks, batch.places)
            total -= summed_likelihoods(heads, parameters, batch.values).double().numpy()
            counted += known_by_head(heads, batch.values)
            if calibrated:
                targets, those = material.targets.at(batch.places[batch.counts]), parameters[batch.counts].double()
                for number in contested(heads):
                    head = heads[number]
                    tail = material.tails[head.feature]
                    surprises[number].append(surprise(head, head.of(those), targets, tail))
        total, counted = ranks.sum(np.stack([total, counted]))
        by_head = total / np.maximum(counted, 1)
        value = mean_over_features(heads, by_head) if events else math.nan
        calibration = np.array([miscalibration(parts) for parts in surprises])
        return Judgement(by_head, value, calibration, events)


def contested(heads: tuple[Head, ...]) -> list[int]:
    """The numbers of the heads that have a rival for their feature."""
    rivals = np.bincount([head.feature for head in heads])
    return [number for number, head in enumerate(heads) if rivals[head.feature] > 1]


def miscalibration(surprises: list[Tensor]) -> float:
    """Mean over levels of |log(share that came / stated share)|, where enough events should come to say."""
    if not surprises:
        return 0.0
    found = exceedances(torch.cat(surprises).numpy())
    told = [each for each in found if each.events * each.level >= FEWEST]
    return float(np.mean([abs(math.log(max(each.came, 0.5) / (each.events * each.level))) for each in told] or [0.0]))


def choose_families(heads: tuple[Head, ...], judged: Judgement) -> tuple[Head, ...]:
    """For each feature the head whose rare values came as seldom as it said, and of equals the likelier one."""
    features = sorted({head.feature for head in heads})
    chosen = []
    for feature in features:
        rivals = [i for i, head in enumerate(heads) if head.feature == feature]
        best = min(judged.calibration[i] for i in rivals)
        equals = [i for i in rivals if judged.calibration[i] <= best + SAME]
        chosen.append(heads[min(equals, key=lambda i: (judged.by_head[i], i))])
    return tuple(chosen)
