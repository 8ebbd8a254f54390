"""The probability of a label, from what all streams say of an event: a small ensemble on top of the encoders."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

MEMBERS = 5
HIDDEN = 32
BATCH = 512
EPOCHS = 12
RATE = 0.005
DECAY = 0.01
FARTHEST = 8.0  # standard deviations of an input
LEAST_POSITIVES = 2


class Perceptron(nn.Module):
    """One member: log odds (n,) from inputs (n, K)."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(inputs, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.odds = nn.Linear(HIDDEN, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Log odds (n,) from x (n, K)."""
        x = F.dropout(F.silu(self.first(x)), 0.1, self.training)
        return self.odds(F.silu(self.second(x))).squeeze(-1)


class LabelModel(nn.Module):
    """The mean of several perceptrons, trained with class weights that are taken out again.

    Args:
        inputs: how many numbers K say something of an event.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(inputs))
        self.register_buffer("spread", torch.ones(inputs))
        self.register_buffer("shift", torch.zeros(()))
        self.members = nn.ModuleList(Perceptron(inputs) for _ in range(MEMBERS))

    def scaled(self, x: Tensor) -> Tensor:
        """Inputs (n, K) in standard deviations of the training events."""
        return ((x - self.centre) / self.spread).clamp(-FARTHEST, FARTHEST)

    def forward(self, x: Tensor) -> Tensor:
        """Log odds (n,) of the label from x (n, K)."""
        scaled = self.scaled(x)
        return torch.stack([member(scaled) for member in self.members]).mean(0) - self.shift

    @torch.no_grad()
    def log_odds(self, x: np.ndarray) -> np.ndarray:
        """Log odds (n,) float64 of the label from x (n, K) float64."""
        return np.concatenate([self(piece).numpy() for piece in torch.from_numpy(x).split(65_536)] or [np.empty(0)])


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
    """Train the ensemble.

    Args:
        x: (events, K) of the training events whose label is known.
        labels: (events,) bool.
        seed: of the weights and the order of the batches.
        progress: told of every epoch.

    Raises:
        ValueError: fewer than two labelled events, or none that is not.
    """
    positives = int(labels.sum())
    if positives < LEAST_POSITIVES or positives == len(labels):
        raise ValueError(f"{positives:,} of the {len(labels):,} training events with a known label are labelled")
    model = LabelModel(x.shape[1])
    inputs = torch.from_numpy(x).float()
    model.centre.copy_(inputs.mean(0))
    model.spread.copy_(inputs.std(0).clamp(min=1e-6))
    balance = torch.tensor(math.sqrt((len(labels) - positives) / positives))
    model.shift.copy_(balance.log())
    scaled, wanted = model.scaled(inputs), torch.from_numpy(labels).float()
    steps = EPOCHS * -(-len(labels) // BATCH)
    with torch.random.fork_rng(devices=[]):
        for number in range(MEMBERS):
            torch.manual_seed(seed + number)
            member = Perceptron(x.shape[1])
            optimiser = torch.optim.AdamW(member.parameters(), RATE, weight_decay=DECAY)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
            for epoch in range(EPOCHS):
                for batch in torch.randperm(len(labels)).split(BATCH):
                    loss = F.binary_cross_entropy_with_logits(member(scaled[batch]), wanted[batch], pos_weight=balance)
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                    schedule.step()
                progress(number * EPOCHS + epoch + 1, MEMBERS * EPOCHS)
            model.members[number].load_state_dict(member.state_dict())
    return model.double().eval().requires_grad_(requires_grad=False)
