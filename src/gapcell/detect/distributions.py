"""The distributions that the heads predict: their densities, and tails that stay finite however far out."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import special
from torch import Tensor
from torch.nn import functional as F

LEAST_SCALE = 0.05  # of a typical spread; keeps a mixture from collapsing onto values that repeat
LEAST_FREEDOM = 2.0  # a Student t with finite spread
FARTHEST = 1e15  # standard deviations; the square is finite in float32 too
SERIES_BELOW = 0.1  # the incomplete beta function is summed as a series below this argument
SERIES_TERMS = 16  # of which each is less than a tenth of the one before


def by_parameter(parameters: Tensor) -> Tensor:
    """The same parameters (..., size), each one's values beside one another in memory, where they are quick to work on.

    The likelihood of a mixture of four takes a third of the time so.
    """
    return parameters.movedim(-1, 0).contiguous().movedim(0, -1)


def student_t(parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Location, scale and degrees of freedom from unconstrained parameters (..., 3)."""
    loc, scale, freedom = by_parameter(parameters).unbind(-1)
    return loc, F.softplus(scale) + LEAST_SCALE, F.softplus(freedom) + LEAST_FREEDOM


def mixture(parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log weights, means and standard deviations, each (..., K), from unconstrained parameters (..., 3 K)."""
    weight, loc, scale = by_parameter(parameters).unflatten(-1, (3, -1)).unbind(-2)
    weight = weight - weight.logsumexp(-1, keepdim=True)  # log_softmax would move them back
    return weight, loc, F.softplus(scale) + LEAST_SCALE


def zero_inflated(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Logit (...) of the probability of zero, and the mixture's parameters (..., 3 K), from (..., 1 + 3 K)."""
    return parameters[..., 0], parameters[..., 1:]


def student_t_log_density(parameters: Tensor, z: Tensor) -> Tensor:
    """Log density at z (...) of a Student t with parameters (..., 3)."""
    loc, scale, freedom = student_t(parameters)
    normaliser = torch.lgamma((freedom + 1) / 2) - torch.lgamma(freedom / 2) - 0.5 * torch.log(freedom * math.pi)
    return normaliser - torch.log(scale) - (freedom + 1) / 2 * torch.log1p(((z - loc) / scale).square() / freedom)


def mixture_log_density(parameters: Tensor, z: Tensor) -> Tensor:
    """Log density at z (...) of a mixture of Gaussians with parameters (..., 3 K)."""
    weight, loc, scale = mixture(parameters)
    u = (z.unsqueeze(-1) - loc) / scale
    return torch.logsumexp(weight - torch.log(scale) - 0.5 * u.square() - 0.5 * math.log(2 * math.pi), -1)


def mixture_log_tails(parameters: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Log P(Z <= z) and log P(Z >= z) of a mixture of Gaussians, each (...)."""
    weight, loc, scale = mixture(parameters)
    u = ((z.unsqueeze(-1) - loc) / scale).clamp(-FARTHEST, FARTHEST)
    below, above = weight + torch.special.log_ndtr(u), weight + torch.special.log_ndtr(-u)
    return torch.logsumexp(below, -1), torch.logsumexp(above, -1)


def zero_inflated_log_density(parameters: Tensor, z: Tensor, zero: Tensor) -> Tensor:
    """Log probability at z = `zero`, and log density at all other z (...), of a mixture with a probability of zero."""
    logit, rest = zero_inflated(parameters)
    return torch.where(z == zero, F.logsigmoid(logit), F.logsigmoid(-logit) + mixture_log_density(rest, z))


def zero_inflated_log_tails(parameters: Tensor, z: Tensor, zero: float) -> tuple[Tensor, Tensor]:
    """Log P(Z <= z) and log P(Z >= z), each (...), of a number that is zero or comes from a mixture above it."""
    logit, rest = zero_inflated(parameters)
    below, above = mixture_log_tails(rest, z)
    some, none = F.logsigmoid(-logit), F.logsigmoid(logit)
    everything = torch.zeros_like(below)
    return (
        torch.where(z <= zero, none, torch.logaddexp(none, some + below)),
        torch.where(z <= zero, everything, some + above),
    )


def student_t_log_tails(parameters: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Log P(Z <= z) and log P(Z >= z) of a Student t, each (...)."""
    loc, scale, freedom = (part.double().numpy() for part in student_t(parameters))
    u = np.clip((z.double().numpy() - loc) / scale, -FARTHEST, FARTHEST)
    far = log_far_tail(np.abs(u), freedom)
    near = np.log1p(-np.exp(far))  # the far tail is at most a half
    below, above = np.where(u < 0, far, near), np.where(u < 0, near, far)
    return torch.from_numpy(below), torch.from_numpy(above)


def log_far_tail(u: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """Log P(T >= u) for u >= 0: half the regularised incomplete beta I_x(v/2, 1/2) at x = v / (v + u^2).

    Where x is small, so that the beta function would underflow, its hypergeometric series in logarithms
    (Abramowitz and Stegun 26.5.4 and 26.7.1) takes over.
    """
    u, freedom = np.broadcast_arrays(u, freedom)
    a, b = freedom / 2, 0.5
    log_x = np.log(freedom) - np.logaddexp(np.log(freedom), 2 * np.log(np.maximum(u, 1e-300)))
    x = np.exp(log_x)
    small = x < SERIES_BELOW
    far = np.empty(x.shape)
    far[~small] = np.log(special.betainc(a[~small], b, x[~small]))
    a, x, log_x = a[small], x[small], log_x[small]
    series = np.ones(x.shape)
    for n in reversed(range(SERIES_TERMS)):
        series = 1 + series * x * (a + b + n) / (a + 1 + n)
    far[small] = a * log_x + b * np.log1p(-x) - np.log(a) - special.betaln(a, b) + np.log(series)
    return far - math.log(2)
