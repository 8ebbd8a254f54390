"""The recurrent network that people write first: torch.nn.LSTM over padded sequences, zeros where something is missing.

It predicts every event's values from the events before it, by the same mixtures as our heads, and is scored by the same
tails. Removed events keep their place as steps of zeros, which is what a padded or resampled array has.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.detection.rules import Scale, features, largest
from benchmarks.detection.tasks import Scores, Task
from gapcell.detect.model import one_thread

Fill = Literal["zero", "product"]
HIDDEN, COMPONENTS, LEAST_SCALE = 32, 4, 0.05
CHUNK, BATCH, EVENTS_AN_EPOCH, EPOCHS, RATE = 128, 64, 300_000, 12, 3e-3
FARTHEST = 10.0
LONGEST = 4096  # events of a sequence run at once, the state carried


@dataclass(frozen=True, eq=False)
class Arrays:
    """Events sorted by entity and time: inputs (rows, C), targets (rows, V) NaN where missing, and their order."""

    inputs: Tensor
    targets: Tensor
    seconds: np.ndarray
    order: np.ndarray
    starts: np.ndarray


class RivalLSTM(nn.Module):
    """Mixtures for every value of the next event, from the events before it."""

    def __init__(self, channels: int, values: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, HIDDEN, batch_first=True)
        self.start = nn.Parameter(torch.zeros(HIDDEN))
        self.hidden = nn.Linear(HIDDEN, HIDDEN)
        self.head = nn.Linear(HIDDEN, values * 3 * COMPONENTS)
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias.view(values, 3, COMPONENTS)[:, 1] = torch.linspace(-1.5, 1.5, COMPONENTS)

    def forward(
        self, x: Tensor, before: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Parameters (N, T, V, 3, K) of the events, the last output (N, 1, F), and the state after them."""
        output, state = self.lstm(x, state)
        seen = torch.cat([before, output[:, :-1]], 1)
        return self.head(F.silu(self.hidden(seen))).unflatten(-1, (-1, 3, COMPONENTS)), output[:, -1:], state


def mixture(parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    weight, centre, scale = parameters.unbind(-2)
    return F.log_softmax(weight, -1), centre, F.softplus(scale) + LEAST_SCALE


def log_density(parameters: Tensor, value: Tensor) -> Tensor:
    """Of values (..., V) under (..., V, 3, K); 0 where the value is NaN."""
    weight, centre, scale = mixture(parameters)
    u = (torch.nan_to_num(value).unsqueeze(-1) - centre) / scale
    density = torch.logsumexp(weight - scale.log() - 0.5 * u.square() - 0.5 * math.log(2 * math.pi), -1)
    return torch.where(value.isnan(), 0, density)


def tails(parameters: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Log P(Z <= z) and log P(Z >= z), each (..., V)."""
    weight, centre, scale = mixture(parameters)
    u = (value.unsqueeze(-1) - centre) / scale
    return (
        torch.logsumexp(weight + torch.special.log_ndtr(u), -1),
        torch.logsumexp(weight + torch.special.log_ndtr(-u), -1),
    )


def arrays(fitted: Task, task: Task, fill: Fill) -> Arrays:
    """A task as the network takes it.

    Args:
        fitted: whose training part sets the scale.
        task: to be read.
        fill: "zero" puts 0 in the place of a missing amount, before it is scaled; "product" multiplies the scaled
            values by the mask, which is the training median in its place.
    """
    scale = Scale.fit(features(fitted)[fitted.training])
    raw = features(task)
    z = np.clip(scale(raw), -FARTHEST, FARTHEST)
    empty = scale(np.zeros_like(raw)) if fill == "zero" else np.zeros_like(raw)
    day, hour = task.days % 7 / 7, task.seconds % 86_400 / 86_400
    angles = 2 * math.pi * np.stack([day, hour], 1)
    times = np.hstack([np.sin(angles), np.cos(angles)]) * task.kept[:, None]
    seen = np.where(np.isnan(z) | ~task.kept[:, None], empty, z)
    targets = np.where(task.kept[:, None], scale(raw)[:, : len(task.values)], np.nan)
    codes = task.codes()
    order = np.lexsort((task.seconds, codes))
    starts = np.searchsorted(codes[order], np.arange(codes.max() + 2))
    inputs = torch.from_numpy(np.hstack([seen, times]).astype(np.float32)[order])
    return Arrays(inputs, torch.from_numpy(targets.astype(np.float32)[order]), task.seconds[order], order, starts)


def fitted(task: Task, seed: int, fill: Fill, epochs: int = EPOCHS) -> Callable[[Task], Scores]:
    """Train on a task's training part; returns what scores that task or another."""
    with one_thread():
        network = trained(task, arrays(task, task, fill), seed, epochs)

    def score(other: Task) -> Scores:
        with one_thread():
            return scored(network, other, arrays(task, other, fill))

    return score


def trained(task: Task, events: Arrays, seed: int, epochs: int) -> RivalLSTM:
    """The epoch that predicts the held-out events best, as with ours."""
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    network = RivalLSTM(events.inputs.shape[1], events.targets.shape[1])
    cut = [moment.replace(tzinfo=UTC).timestamp() for moment in (task.train_until, task.test_from)]
    training, held_out = chunks(events, -math.inf, cut[0]), chunks(events, cut[0], cut[1])
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    best, kept = math.inf, network.state_dict()
    held_out = held_out[generator.permutation(len(held_out))[: EVENTS_AN_EPOCH // CHUNK]]
    for _ in range(epochs):
        drawn = training[generator.permutation(len(training))[: EVENTS_AN_EPOCH // CHUNK]]
        for batch in np.array_split(drawn, max(1, len(drawn) // BATCH)):
            loss = chunk_loss(network, events, batch)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
        schedule.step()
        with torch.no_grad():
            judged = float(chunk_loss(network, events, held_out if len(held_out) else training))
        if judged < best:
            best, kept = judged, copy.deepcopy(network.state_dict())
    network.load_state_dict(kept)
    return network.eval()


def chunks(events: Arrays, start: float, stop: float) -> np.ndarray:
    """Runs of at most so many events of one entity, between two times: (chunks, 2) begin and end."""
    found = []
    inside = (events.seconds >= start) & (events.seconds < stop)
    for begin, end in zip(events.starts[:-1], events.starts[1:], strict=True):
        rows = begin + np.flatnonzero(inside[begin:end])
        if rows.size:
            edges = np.arange(rows[0], rows[-1] + 1, CHUNK)
            found += [(edge, min(edge + CHUNK, rows[-1] + 1)) for edge in edges]
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def chunk_loss(network: RivalLSTM, events: Arrays, batch: np.ndarray) -> Tensor:
    """Mean negative log-likelihood of the values of these runs of events."""
    length = int((batch[:, 1] - batch[:, 0]).max())
    places = batch[:, :1] + np.arange(length)
    there = torch.from_numpy(places < batch[:, 1:])
    places = torch.from_numpy(np.minimum(places, len(events.seconds) - 1))
    x = torch.where(there.unsqueeze(-1), events.inputs[places], 0)
    targets = torch.where(there.unsqueeze(-1), events.targets[places], math.nan)
    parameters, _, _ = network(x, network.start.expand(len(batch), 1, -1))
    known = (~targets.isnan()).sum().clamp(min=1)
    return -log_density(parameters, targets).sum() / known


@torch.no_grad()
def scored(network: RivalLSTM, task: Task, events: Arrays) -> Scores:
    """Every event of a task, each from its entity's earlier ones."""
    parts = np.full((len(events.seconds), len(task.values)), np.nan)
    nll = np.full(len(events.seconds), np.nan)
    lengths = np.diff(events.starts)
    order = np.argsort(lengths, kind="stable")
    for group in np.array_split(order, max(1, int(lengths.sum()) // 200_000)):
        state, before = None, network.start.expand(len(group), 1, -1)
        for at in range(0, int(lengths[group].max()), LONGEST):
            steps = np.arange(at, min(at + LONGEST, int(lengths[group].max())))
            there = steps < lengths[group][:, None]
            places = np.where(there, events.starts[group][:, None] + steps, 0)
            parameters, before, state = network(events.inputs[places], before, state)
            value = events.targets[places]
            below, above = (tail.numpy() for tail in tails(parameters, torch.nan_to_num(value)))
            density = torch.where(value.isnan(), math.nan, -log_density(parameters, value)).numpy()
            for place, name in enumerate(task.values):
                tail = above if name in task.upper else below if name in task.lower else None
                log_p = tail[..., place] if tail is not None else np.minimum(below, above)[..., place] + math.log(2)
                parts[places[there], place] = np.where(value[..., place].isnan(), np.nan, -log_p)[there]
            nll[places[there]] = density[..., 0][there]
    return Scores(back(largest(parts), events.order), back(nll, events.order))


def back(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Sorted values in the order of the task."""
    result = np.empty_like(values)
    result[order] = values
    return result
