"""The heads: what is predicted of each feature, how likely an event is under it, and how far out it lies."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import special
from torch import Tensor
from torch.nn import functional as F

from gapcell.detect import distributions
from gapcell.detect.features import Encoded, FeatureSpec

Family = Literal["student-t", "mixture", "zero-inflated", "categorical", "bernoulli"]
Tail = Literal["two-sided", "upper", "lower"]
NUMERIC: tuple[Family, ...] = ("student-t", "mixture", "zero-inflated")
HALVINGS = 40  # of the interval in which a quantile of a mixture lies
REACH = 10.0  # standard deviations beyond the outermost component; no quantile of interest lies further out


@dataclass(frozen=True)
class Head:
    """A distribution of one feature, and where its parameters stand among all parameters of a prediction.

    Heads are independent: none reads another's feature, so that an odd value cannot explain another one away.

    Attributes:
        feature: its number.
        family: the distribution.
        start, stop: where its parameters stand.
        zero: the scaled value of zero, for the family "zero-inflated".
    """

    feature: int
    family: Family
    start: int
    stop: int
    zero: float = math.nan

    def of(self, parameters: Tensor) -> Tensor:
        """This head's own parameters: (..., size) of (..., all)."""
        return parameters[..., self.start : self.stop]


@dataclass(frozen=True, eq=False)
class Targets:
    """What is there to be predicted, NaN where missing; each (..., features).

    Attributes:
        value: scaled value, category's number, or 0/1.
        below: for a number the scaled value half a step down, so that P(Z >= below) counts the value itself.
        above: likewise half a step up.
    """

    value: Tensor
    below: Tensor
    above: Tensor

    @classmethod
    def of(cls, encoded: Encoded) -> Targets:
        """The targets of encoded events."""
        return cls(*(torch.from_numpy(part) for part in (encoded.value, encoded.below, encoded.above)))

    def at(self, index: Tensor | slice) -> Targets:
        """The targets at these places of the first axis."""
        return Targets(self.value[index], self.below[index], self.above[index])


def candidate_heads(features: Sequence[FeatureSpec], components: int) -> tuple[Head, ...]:
    """Every head that is trained; for a numeric feature both families, of which held-out events choose one.

    A number that often is zero has a probability of zero beside its mixture, and no other family: a density has no
    say about a value that repeats. The time since the last event is always a mixture, because its likelihood needs the
    probability that a gap still open when training ends grows longer yet.
    """
    heads: list[Head] = []
    for number, feature in enumerate(features):
        sizes: dict[Family, int]
        if feature.zeros:
            sizes = {"zero-inflated": 1 + 3 * components}
        elif feature.kind == "numeric":
            sizes = {"student-t": 3, "mixture": 3 * components}
        elif feature.kind == "gap":
            sizes = {"mixture": 3 * components}
        elif feature.kind == "categorical":
            sizes = {"categorical": len(feature.categories) + 1}
        else:
            sizes = {"bernoulli": 1}
        for family, size in sizes.items():
            start = heads[-1].stop if heads else 0
            zero = math.nan if feature.zero is None else feature.zero
            heads.append(Head(number, family, start, start + size, zero))
    return tuple(heads)


def log_likelihoods(heads: Sequence[Head], parameters: Tensor, values: Tensor) -> Tensor:
    """Log density or log probability (heads, ...) under each head; 0 where the value is NaN.

    Heads of one family are worked on together: one alone is so little work that beginning it would take the longest.

    Args:
        heads: in the order of their parameters; all, or some.
        parameters: (..., all) as predicted.
        values: (..., features) that came.
    """
    edges = [0, *(edge for head in heads for edge in (head.start, head.stop)), parameters.shape[-1]]
    own = parameters.movedim(-1, 0).split(np.diff(edges).tolist())[1::2]
    alike: dict[tuple[Family, int], list[int]] = defaultdict(list)
    for number, head in enumerate(heads):
        alike[head.family, head.stop - head.start].append(number)
    found: dict[int, Tensor] = {}
    for (family, _), numbers in alike.items():
        value = torch.stack([values[..., heads[number].feature] for number in numbers])
        zero = torch.tensor([heads[number].zero for number in numbers], dtype=value.dtype)
        theirs = torch.stack([own[number] for number in numbers], 1).movedim(0, -1)
        likelihood = log_likelihood(family, theirs, value, zero.view(-1, *[1] * (value.dim() - 1)))
        found |= zip(numbers, likelihood, strict=True)
    return torch.stack([found[number] for number in range(len(heads))])


def log_likelihood(family: Family, parameters: Tensor, value: Tensor, zero: Tensor) -> Tensor:
    """Log density or log probability at `value` (...) under parameters (..., size); 0 where the value is NaN.

    Args:
        family: the distribution.
        parameters: as predicted.
        value: what came.
        zero: (...) the scaled value of zero, for the family "zero-inflated".
    """
    known = ~torch.isnan(value)
    value = torch.where(known, value, 0)
    if family == "student-t":
        likelihood = distributions.student_t_log_density(parameters, value)
    elif family == "mixture":
        likelihood = distributions.mixture_log_density(parameters, value)
    elif family == "zero-inflated":
        likelihood = distributions.zero_inflated_log_density(parameters, value, zero)
    elif family == "bernoulli":
        likelihood = -F.binary_cross_entropy_with_logits(parameters[..., 0], value, reduction="none")
    else:
        likelihood = F.log_softmax(parameters, -1).gather(-1, value.long().unsqueeze(-1)).squeeze(-1)
    return torch.where(known, likelihood, 0)


def surprise(head: Head, parameters: Tensor, targets: Targets, tail: Tail) -> Tensor:
    """How far out an event's feature lies: -log of the probability of something as extreme, float64 (...), NaN missing.

    For a number that is P(Z >= z), P(Z <= z), or twice the smaller of the two, the value itself counted; for a
    category the probability of all categories that are no likelier than the one that came.

    Args:
        head: whose prediction it is.
        parameters: (..., size) float64, as predicted.
        targets: the features of the events, each (..., features).
        tail: which side of a number is anomalous.
    """
    value = targets.value[..., head.feature]
    known = ~torch.isnan(value)
    if head.family in NUMERIC:
        below = torch.where(known, targets.below[..., head.feature], 0)
        above = torch.where(known, targets.above[..., head.feature], 0)
        log_p = log_tail(head, parameters, below, above, tail)
    else:
        log_p = log_no_likelier(head, parameters, torch.where(known, value, 0))
    return torch.where(known, (-log_p).clamp(min=0), math.nan)


def log_tail(head: Head, parameters: Tensor, below: Tensor, above: Tensor, tail: Tail) -> Tensor:
    """Log probability of a number at least as extreme."""
    if tail == "upper":
        return log_tails(head, parameters, below)[1]
    if tail == "lower":
        return log_tails(head, parameters, above)[0]
    return math.log(2) + torch.minimum(log_tails(head, parameters, above)[0], log_tails(head, parameters, below)[1])


def log_tails(head: Head, parameters: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Log P(Z <= z) and log P(Z >= z) of a number, each (...)."""
    if head.family == "student-t":
        return distributions.student_t_log_tails(parameters, z)
    if head.family == "mixture":
        return distributions.mixture_log_tails(parameters, z)
    return distributions.zero_inflated_log_tails(parameters, z, head.zero)


def log_probabilities(head: Head, parameters: Tensor) -> Tensor:
    """Log probability of each category, or of False and True: (..., categories)."""
    if head.family == "bernoulli":
        return torch.cat([F.logsigmoid(-parameters), F.logsigmoid(parameters)], -1)
    return F.log_softmax(parameters, -1)


def log_no_likelier(head: Head, parameters: Tensor, value: Tensor) -> Tensor:
    """Log probability of all categories that are no likelier than `value`; 0 for the likeliest, whatever is rounded."""
    log_p = log_probabilities(head, parameters)
    own = log_p.gather(-1, value.long().unsqueeze(-1))
    rarer = torch.where(log_p <= own, log_p, -math.inf).logsumexp(-1)
    return torch.where(own.squeeze(-1) >= log_p.amax(-1), 0.0, rarer)


def quantile(head: Head, parameters: Tensor, probability: float) -> Tensor:
    """The value (...) below which a number falls with this probability, under parameters (..., size) float64."""
    if head.family == "student-t":
        loc, scale, freedom = distributions.student_t(parameters)
        return loc + scale * torch.as_tensor(special.stdtrit(freedom.numpy(), probability), dtype=loc.dtype)
    if head.family == "zero-inflated":
        none = torch.sigmoid(parameters[..., 0])
        rest = ((probability - none) / (1 - none)).clamp(min=0)
        found = mixture_quantile(parameters[..., 1:], rest)
        return torch.where(none >= probability, torch.full_like(found, head.zero), found.clamp(min=head.zero))
    return mixture_quantile(parameters, torch.as_tensor(probability, dtype=parameters.dtype))


def mixture_quantile(parameters: Tensor, probability: Tensor) -> Tensor:
    """The value (...) below which a mixture with parameters (..., 3 K) falls with this probability, by halving."""
    weight, loc, scale = distributions.mixture(parameters)
    low, high = (loc - REACH * scale).amin(-1), (loc + REACH * scale).amax(-1)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        below = (weight.exp() * torch.special.ndtr((middle.unsqueeze(-1) - loc) / scale)).sum(-1)
        low, high = torch.where(below < probability, middle, low), torch.where(below < probability, high, middle)
    return (low + high) / 2
