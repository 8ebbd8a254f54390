"""The population: how each feature is distributed over all events, whoever's they are."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from gapcell.detect.heads import NUMERIC, Head, log_likelihoods
from gapcell.detect.material import Material, log_survival

POPULATION_BATCH = 4096  # training events drawn for each step
POPULATION_STEPS = 400
POPULATION_RATE = 0.05
HALF_A_COUNT = 0.5  # added to the count of every category, so that one never seen is rare and not impossible


def starting_point(heads: tuple[Head, ...], targets: Tensor) -> Tensor:
    """Parameters (all,) of the population to start from: frequencies of categories, components side by side."""
    parameters = torch.zeros(heads[-1].stop)
    for head in heads:
        known = targets[:, head.feature]
        known = known[~torch.isnan(known)]
        own = head.of(parameters)
        if head.family in ("mixture", "zero-inflated"):
            mixture = own[own.numel() % 3 :]
            mixture.view(3, -1)[1] = torch.linspace(-1.5, 1.5, mixture.numel() // 3) if mixture.numel() > 3 else 0.0
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
    stream = material.stream
    training = np.flatnonzero((stream.seconds < material.split.train_until) & ~stream.report)
    last = material.ends(material.split.train_until)
    last = last[last > material.starts[:-1]] - 1
    parameters = starting_point(material.heads, material.targets.value[training]).requires_grad_()
    optimiser = torch.optim.Adam([parameters], POPULATION_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, POPULATION_STEPS)
    numeric = [head for head in material.heads if head.family in NUMERIC]
    for step in range(POPULATION_STEPS):
        values = material.values(draws.choice(training, POPULATION_BATCH), draws)
        still_open = material.open_gaps(draws.choice(last, POPULATION_BATCH))
        loss = -log_survival(material.gap_head, parameters, still_open).mean() * len(last) / len(training)
        loss = loss - log_likelihoods(numeric, parameters.unsqueeze(0), values).mean(1).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        progress(step + 1, POPULATION_STEPS)
    return parameters.detach()
