"""Fitting the population and the network to the training part, by likelihood."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gapcell.detect import distributions
from gapcell.detect.features import GAP, FeatureSpec
from gapcell.detect.heads import Head, Tail, Targets, log_likelihood
from gapcell.detect.model import Network, Sequences
from gapcell.detect.options import FitOptions
from gapcell.detect.results import Epoch, Progress, Split
from gapcell.detect.scoring import Predictor
from gapcell.detect.series import Chunks, batches, cut, gather

POPULATION_BATCH = 4096  # training events drawn for each step
POPULATION_STEPS = 400
POPULATION_RATE = 0.05
BATCHES_AN_EPOCH = 48
SMALLEST_BATCH, LARGEST_BATCH = 64, 4096  # events, padding counted
EVENTS_AN_EPOCH = 300_000  # at most; a larger table is drawn from anew each epoch
HELD_OUT_EVENTS = 100_000  # at most, to judge an epoch
LARGEST_GRADIENT = 1.0
IMPROVEMENT = 1e-4
HALF_A_COUNT = 0.5  # added to the count of every category, so that one never seen is rare and not impossible


@dataclass(frozen=True, eq=False)
class Material:
    """What is fitted to: events sorted by entity and time, and which of them may be looked at.

    Attributes:
        sequences: what the network reads.
        targets: what it is to predict.
        seconds: (rows,) float64.
        starts: (entities + 1,) int64, where each entity begins.
        split: where time is cut; nothing from `threshold_from` on is used.
        features: how each feature is encoded.
        heads: the candidates.
    """

    sequences: Sequences
    targets: Targets
    seconds: np.ndarray
    starts: np.ndarray
    split: Split
    features: tuple[FeatureSpec, ...]
    heads: tuple[Head, ...]

    def ends(self, until: float) -> np.ndarray:
        """One past the last event before `until` of each entity: (entities,) int64."""
        before = np.append(0, np.cumsum(self.seconds < until))
        return self.starts[:-1] + before[self.starts[1:]] - before[self.starts[:-1]]

    def open_gaps(self, last: np.ndarray) -> Tensor:
        """Scaled time from these events to the end of training: each entity's next event is at least that far off."""
        scaling = next(feature.scaling for feature in self.features if feature.name == GAP and feature.scaling)
        return torch.from_numpy(scaling.forward(self.split.train_until - self.seconds[last])).float()

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
        return next(head for head in self.heads if self.features[head.feature].name == GAP)


def starting_point(heads: tuple[Head, ...], targets: Tensor) -> Tensor:
    """Parameters (all,) of the population to start from: frequencies of categories, components side by side."""
    parameters = torch.zeros(heads[-1].stop)
    for head in heads:
        known = targets[:, head.feature]
        known = known[~torch.isnan(known)]
        own = head.of(parameters)
        if head.family == "mixture":
            own.view(3, -1)[1] = torch.linspace(-1.5, 1.5, own.numel() // 3) if own.numel() > 3 else 0.0
        elif head.family == "bernoulli":
            yes = float((known > 0.5).sum())
            own[0] = math.log((yes + HALF_A_COUNT) / (len(known) - yes + HALF_A_COUNT))
        elif head.family == "categorical":
            counts = torch.bincount(known.long(), minlength=own.numel()) + HALF_A_COUNT
            own.copy_(torch.log(counts / counts.sum()))
    return parameters


def fit_population(material: Material, seed: int, progress: Callable[[int, int], None]) -> Tensor:
    """The distribution of each feature over all training events, whoever's they are: parameters (all,).

    Categories have their frequencies; numbers are fitted by likelihood, and gaps still open at the end of training
    count as at least that long, without which every later gap would look too long.
    """
    draws = np.random.default_rng(seed)
    training = np.flatnonzero(material.seconds < material.split.train_until)
    last = material.ends(material.split.train_until)
    last = last[last > material.starts[:-1]] - 1
    parameters = starting_point(material.heads, material.targets.value[training]).requires_grad_()
    optimiser = torch.optim.Adam([parameters], POPULATION_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, POPULATION_STEPS)
    numeric = [head for head in material.heads if head.family in ("student-t", "mixture")]
    for step in range(POPULATION_STEPS):
        values = material.values(draws.choice(training, POPULATION_BATCH), draws)
        still_open = material.open_gaps(draws.choice(last, POPULATION_BATCH))
        loss = -log_survival(material.gap_head, parameters, still_open).mean() * len(last) / len(training)
        for head in numeric:
            loss = loss - log_likelihood(head, head.of(parameters), values[:, head.feature]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        progress(step + 1, POPULATION_STEPS)
    return parameters.detach()


def log_survival(head: Head, parameters: Tensor, z: Tensor) -> Tensor:
    """Log probability (...) that a gap is longer than z (...), under all parameters (..., all)."""
    return distributions.mixture_log_tails(head.of(parameters), z)[1]


def log_likelihoods(heads: tuple[Head, ...], parameters: Tensor, values: Tensor) -> Tensor:
    """Summed log likelihood under each head: (heads,) from parameters (..., all) and values (..., features)."""
    return torch.stack([log_likelihood(head, head.of(parameters), values[..., head.feature]).sum() for head in heads])


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained network.

    Attributes:
        network: with the weights of its best epoch, in evaluation mode.
        epochs: the training curve.
        held_out: (heads,) mean negative log-likelihood of the held-out events under each head.
        population_held_out: likewise under the population.
    """

    network: Network
    epochs: tuple[Epoch, ...]
    held_out: np.ndarray
    population_held_out: np.ndarray


def fit_network(
    material: Material, population: Tensor, options: FitOptions, progress: Callable[[int, int, str], None]
) -> Fitted:
    """Train a network and keep the epoch that predicts the held-out events before `threshold_from` best."""
    draws = np.random.default_rng(options.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = Network(material.sequences.inputs.shape[1], options.hidden_size, options.window, material.heads)
    network.begin_at(population)
    training = training_chunks(material, options)
    held_out = HeldOut.of(material, options)
    groups = batches(training, batch_size(training))
    optimiser = torch.optim.Adam(network.parameters(), options.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.epochs)
    epochs: list[Epoch] = []
    best, best_state, best_heads = math.inf, network.state_dict(), np.full(len(material.heads), math.nan)
    best_epoch = 0
    for number in range(1, options.epochs + 1):
        train = train_epoch(network, material, training, groups, optimiser, draws)
        schedule.step()
        by_head = held_out.judge(network, material)
        judged = mean_over_features(material.heads, by_head) if len(held_out.chunks) else train
        epochs.append(Epoch(number, train, judged))
        progress(number, options.epochs, f"held-out negative log-likelihood {judged:.3f}")
        if judged < best - IMPROVEMENT:
            best, best_epoch, best_heads, best_state = judged, number, by_head, copy.deepcopy(network.state_dict())
        elif number - best_epoch >= options.patience:
            break
    network.load_state_dict(best_state)
    return Fitted(network.eval(), tuple(epochs), best_heads, held_out.judge_population(population, material))


def training_chunks(material: Material, options: FitOptions) -> Chunks:
    """The training events of entities that have enough of them."""
    begin, end = material.starts[:-1], material.ends(material.split.train_until)
    enough = end - begin >= options.min_events
    return cut(begin[enough], end[enough], options.window)


def batch_size(chunks: Chunks) -> int:
    """Events a batch: small enough for a good number of steps an epoch, large enough to be quick."""
    events = int((chunks.end - chunks.begin).sum())
    return int(np.clip(events // BATCHES_AN_EPOCH, SMALLEST_BATCH, LARGEST_BATCH))


def train_epoch(
    network: Network,
    material: Material,
    chunks: Chunks,
    groups: list[np.ndarray],
    optimiser: torch.optim.Optimizer,
    draws: np.random.Generator,
) -> float:
    """One pass over the batches in a drawn order; returns the mean negative log-likelihood of a feature."""
    network.train()
    total, counted, seen = np.zeros(len(material.heads)), np.zeros(len(material.heads)), 0
    for number in draws.permutation(len(groups)):
        chunk = chunks.at(groups[number])
        places, there = gather(chunk.begin, chunk.end)
        lengths = torch.from_numpy(chunk.end - chunk.begin)
        parameters = network(material.sequences.inputs[places], material.sequences.observed[places], lengths)
        counts = there & (places >= torch.from_numpy(chunk.first)[:, None])
        values = torch.where(counts.unsqueeze(-1), material.values(places, draws), math.nan)
        likelihoods = log_likelihoods(material.heads, parameters[:, :-1], values)
        closing = torch.from_numpy(np.flatnonzero(chunk.closes))
        after = parameters[closing, lengths[closing]]
        survival = log_survival(material.gap_head, after, material.open_gaps(chunk.end[chunk.closes] - 1)).sum()
        loss = -(weighted(material.heads, likelihoods) + survival) / int(counts.sum())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
        optimiser.step()
        total -= likelihoods.detach().double().numpy()
        counted += known_by_head(material.heads, values)
        seen += places.numel()
        if seen >= EVENTS_AN_EPOCH:
            break
    return mean_over_features(material.heads, total / np.maximum(counted, 1))


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


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The held-out events that judge an epoch, with one fixed draw of where in its step each number lies."""

    chunks: Chunks
    groups: list[np.ndarray]
    seed: int

    @classmethod
    def of(cls, material: Material, options: FitOptions) -> HeldOut:
        """Held-out events before `threshold_from` of all entities, with the history before them."""
        split = material.split
        chunks = cut(material.starts[:-1], material.ends(split.threshold_from), options.window)
        chunks = chunks.at(np.flatnonzero(material.seconds[chunks.end - 1] >= split.train_until))
        drawn = np.random.default_rng(options.seed).permutation(len(chunks))
        lengths = (chunks.end - chunks.begin)[drawn]
        chunks = chunks.at(np.sort(drawn[np.cumsum(lengths) - lengths < HELD_OUT_EVENTS]))
        return cls(chunks, batches(chunks, 4 * LARGEST_BATCH), options.seed)

    def judge(self, network: Network, material: Material) -> np.ndarray:
        """Mean negative log-likelihood of the events under each head of the network: (heads,)."""
        network.eval()

        def predict(chunk: Chunks, places: Tensor) -> Tensor:
            lengths = torch.from_numpy(chunk.end - chunk.begin)
            return network(material.sequences.inputs[places], material.sequences.observed[places], lengths)[:, :-1]

        return self.mean(material, predict)

    def judge_population(self, population: Tensor, material: Material) -> np.ndarray:
        """Likewise under the population's parameters (all,)."""
        return self.mean(material, lambda chunk, places: population.expand(*places.shape, -1))

    @torch.no_grad()
    def mean(self, material: Material, predict: Callable[[Chunks, Tensor], Tensor]) -> np.ndarray:
        """Mean negative log-likelihood (heads,) under the parameters (..., all) predicted for places (...)."""
        draws = np.random.default_rng(self.seed)
        total, counted = np.zeros(len(material.heads)), np.zeros(len(material.heads))
        for group in self.groups:
            chunk = self.chunks.at(group)
            places, there = gather(chunk.begin, chunk.end)
            held_out = torch.from_numpy(material.seconds)[places] >= material.split.train_until
            counts = there & held_out & (places >= torch.from_numpy(chunk.first)[:, None])
            values = torch.where(counts.unsqueeze(-1), material.values(places, draws), math.nan)
            total -= log_likelihoods(material.heads, predict(chunk, places), values).double().numpy()
            counted += known_by_head(material.heads, values)
        return total / np.maximum(counted, 1)


def fit_predictor(
    material: Material, options: FitOptions, tails: tuple[Tail, ...], progress: Progress
) -> tuple[Predictor, Fitted]:
    """Fit population and network, choose the families, and turn all to float64."""
    population = fit_population(material, options.seed, lambda done, total: progress("population", done, total))

    def told(done: int, total: int, message: str) -> None:
        progress("network", done, total, message)

    fitted = fit_network(material, population, options, told)
    predictor = Predictor(
        network=copy.deepcopy(fitted.network).double().requires_grad_(requires_grad=False),
        population=population.double(),
        own=choose_families(material.heads, fitted.held_out),
        common=choose_families(material.heads, fitted.population_held_out),
        tails=tails,
    )
    return predictor, fitted


def choose_families(heads: tuple[Head, ...], held_out: np.ndarray) -> tuple[Head, ...]:
    """For each feature the head under which the held-out events are likeliest."""
    features = sorted({head.feature for head in heads})
    return tuple(
        min((held_out[i], i, head) for i, head in enumerate(heads) if head.feature == feature)[2]
        for feature in features
    )
