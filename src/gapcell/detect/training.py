"""Training a network on a stream, by likelihood."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gapcell.detect.batch import Batch
from gapcell.detect.distributed import ALONE, Ranks
from gapcell.detect.judging import HeldOut, Judgement
from gapcell.detect.material import (
    Material,
    known_by_head,
    log_survival,
    mean_over_features,
    summed_likelihoods,
    weighted,
)
from gapcell.detect.model import Network
from gapcell.detect.options import EncoderName, FitOptions
from gapcell.detect.results import Epoch
from gapcell.detect.series import Chunks, batches, cut

BATCHES_AN_EPOCH = 48
SMALLEST_BATCH, LARGEST_BATCH = 64, 4096  # events, padding counted
EVENTS_AN_EPOCH = 300_000  # at most; a larger table is drawn from anew each epoch
LARGEST_GRADIENT = 1.0
IMPROVEMENT = 1e-4
VALUES_BESIDE_LABELS = 0.1  # weight of the events' likelihood beside that of their labels


class Watcher(Protocol):
    """Who is told of the epochs of a training, and may have kept some of an earlier one."""

    def resume(self, course: Course) -> None:
        """Put back what was kept, if anything was."""
        ...

    def after_epoch(self, course: Course, total: int) -> None:
        """Take note of one more epoch of at most `total`."""
        ...


@dataclass(eq=False)
class Course:
    """A training under way: everything that the next epoch needs.

    Attributes:
        network: as the last epoch left it.
        optimiser: Adam, with its moments.
        schedule: of the learning rate.
        draws: the order of the batches, and where in its step each number lies.
        epochs: those that are over.
        best: the weights of the best one.
        judged: what the held-out events say of the best one.
    """

    network: Network
    optimiser: torch.optim.Adam
    schedule: torch.optim.lr_scheduler.CosineAnnealingLR
    draws: np.random.Generator
    epochs: list[Epoch] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    judged: Judgement | None = None

    @classmethod
    def start(cls, material: Material, population: Tensor, encoder: EncoderName, options: FitOptions) -> Course:
        """A network that predicts the population, before its first epoch."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            network = Network(
                material.sequences.inputs.shape[1], material.sequences.moments.shape[1], options.hidden_size,
                options.window, material.heads, encoder, hours=material.encoding.hours, labels=options.supervised,
            )  # fmt: skip
        network.begin_at(population)
        optimiser = torch.optim.Adam(network.parameters(), options.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.epochs)
        return cls(network, optimiser, schedule, np.random.default_rng(options.seed))

    @property
    def best_epoch(self) -> int:
        """The number of the epoch whose weights are kept; 0 before the first."""
        return min(self.epochs, key=lambda epoch: epoch.held_out).epoch if self.epochs else 0

    def finished(self, options: FitOptions) -> bool:
        """Whether all epochs are over, or none of the last ones was better."""
        return len(self.epochs) >= options.epochs or len(self.epochs) - self.best_epoch >= options.patience

    def kept(self) -> Network:
        """The network of the best epoch, in evaluation mode."""
        self.network.load_state_dict(self.best)
        return self.network.eval()


def fit_network(
    material: Material,
    held_out: HeldOut,
    course: Course,
    options: FitOptions,
    watcher: Watcher,
    ranks: Ranks = ALONE,
) -> None:
    """Train until no epoch predicts the held-out events better; the best one is kept in the course.

    An interruption (Ctrl-C) after the first epoch ends the training there, and is passed on.
    """
    watcher.resume(course)
    training = training_chunks(material, options, course.network.window)
    groups = batches(training, batch_size(training))
    while not course.finished(options):
        train = train_epoch(course, material, training, groups, ranks)
        course.schedule.step()
        judged = held_out.judge(course.network, material, ranks=ranks)
        value = judged.value if judged.events else train
        if not course.best or value < min(epoch.held_out for epoch in course.epochs) - IMPROVEMENT:
            course.best, course.judged = copy.deepcopy(course.network.state_dict()), judged
        course.epochs.append(Epoch(len(course.epochs) + 1, train, value))
        watcher.after_epoch(course, options.epochs)


def training_chunks(material: Material, options: FitOptions, window: int) -> Chunks:
    """The training places of series that have enough of them."""
    begin, end = material.starts[:-1], material.ends(material.split.train_until)
    enough = end - begin >= options.min_events
    return cut(begin[enough], end[enough], window)


def batch_size(chunks: Chunks) -> int:
    """Places a batch: small enough for a good number of steps an epoch, large enough to be quick."""
    events = int((chunks.end - chunks.begin).sum())
    return int(np.clip(events // BATCHES_AN_EPOCH, SMALLEST_BATCH, LARGEST_BATCH))


def train_epoch(
    course: Course, material: Material, chunks: Chunks, groups: list[np.ndarray], ranks: Ranks = ALONE
) -> float:
    """One pass over the batches in a drawn order; returns the mean negative log-likelihood of a feature."""
    network, draws = course.network.train(), course.draws
    parameters = list(network.parameters())
    total, counted, seen = np.zeros(len(material.heads)), np.zeros(len(material.heads)), 0
    balance = class_balance(material, chunks)
    for number in draws.permutation(len(groups)):
        batch = Batch.of(material, chunks.at(groups[number]), draws)
        seen += batch.places.numel()
        course.optimiser.zero_grad()
        batch = batch.share(ranks)
        if len(batch.chunks):
            loss, likelihoods = loss_of(network, material, batch, balance)
            loss.backward()
            total -= likelihoods.detach().double().numpy()
            counted += known_by_head(material.heads, batch.values)
        ranks.sum_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
        course.optimiser.step()
        if seen >= EVENTS_AN_EPOCH:
            break
    total, counted = ranks.sum(np.stack([total, counted]))
    return mean_over_features(material.heads, total / np.maximum(counted, 1))


def loss_of(network: Network, material: Material, batch: Batch, balance: float) -> tuple[Tensor, Tensor]:
    """The loss, and the log likelihood (heads,) under each head.

    Sums are divided by the counts of the whole batch, so that the losses of its shares add up to its own.
    """
    chunks, lengths = batch.chunks, torch.from_numpy(batch.chunks.end - batch.chunks.begin)
    states = network.states(material.sequences, batch.places, lengths)
    parameters = network.readout(states)
    likelihoods = summed_likelihoods(material.heads, parameters[:, :-1], batch.values)
    closing = torch.from_numpy(np.flatnonzero(chunks.closes))
    after = parameters[closing, lengths[closing]]
    survival = log_survival(material.gap_head, after, material.open_gaps(chunks.end[chunks.closes] - 1)).sum()
    loss = -(weighted(material.heads, likelihoods) + survival) / max(batch.events, 1)
    if network.label_head is not None:
        loss = VALUES_BESIDE_LABELS * loss + label_loss(network, material, states[:, :-1], batch, balance)
    return loss, likelihoods


def class_balance(material: Material, chunks: Chunks) -> float:
    """The weight of a labelled event: the root of how many others there are for each; 1 where there are none."""
    known = torch.zeros(len(material.labels), dtype=torch.bool)
    known[: int(chunks.end.max(initial=0))] = True
    past = torch.from_numpy(material.stream.seconds < material.split.train_until)
    labels = material.labels[known & past & ~torch.isnan(material.labels)]
    positive = float(labels.sum())
    return math.sqrt(max(len(labels) - positive, 1.0) / positive) if positive else 1.0


def label_loss(network: Network, material: Material, before: Tensor, batch: Batch, balance: float) -> Tensor:
    """Weighted cross-entropy of the known labels, divided by how many the whole batch has; 0 where there are none."""
    known = batch.counts & ~torch.isnan(material.labels[batch.places])
    if network.label_head is None or not bool(known.any()):
        return torch.zeros(())
    at = batch.places[known]
    odds = network.label_head(before[known], material.sequences.inputs[at], material.sequences.observed[at])
    weight = torch.tensor(balance)
    mean = F.binary_cross_entropy_with_logits(odds, material.labels[at], pos_weight=weight)
    return mean * (len(at) / batch.labels)
