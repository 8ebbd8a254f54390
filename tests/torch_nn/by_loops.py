"""Equations (19), (20) and (22) and the way of a mask, as loops: slow, and sharing nothing with what they judge."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Reach = list[list[tuple[int, int]]]  # for each output site of an axis the (tap, input site) pairs inside the array


@dataclass(frozen=True)
class Axis:
    """What each output site of one axis reads, and the input site in its middle."""

    reach: Reach
    centre: list[int]


def of_convolution(size: int, kernel: int, stride: int, padding: int, dilation: int) -> Axis:
    span = dilation * (kernel - 1)
    out = (size + 2 * padding - span - 1) // stride + 1
    first = [site * stride - padding for site in range(out)]
    reach = [[(tap, at + tap * dilation) for tap in range(kernel) if 0 <= at + tap * dilation < size] for at in first]
    return Axis(reach, [at + span // 2 for at in first])


def of_transposed(size: int, kernel: int, stride: int, padding: int, dilation: int, output_padding: int) -> Axis:
    span = dilation * (kernel - 1)
    out = (size - 1) * stride + span + 1 - 2 * padding + output_padding
    reach = [
        [(tap, site) for site in range(size) for tap in range(kernel) if site * stride + tap * dilation - padding == at]
        for at in range(out)
    ]
    nearest = [math.ceil((at + padding - span / 2) / stride - 0.5) for at in range(out)]
    return Axis(reach, [min(max(site, 0), size - 1) for site in nearest])


def moved(v: np.ndarray, axes: list[Axis], rule: str) -> np.ndarray:
    """A mask of sites (N, T, *S) at the output sites."""
    out = np.zeros((*v.shape[:2], *(len(axis.reach) for axis in axes)), dtype=bool)
    for place in itertools.product(*(range(size) for size in out.shape)):
        n, t, *sites = place
        reads = []
        for axis, site in zip(axes, sites, strict=True):
            reaching = [position for _, position in axis.reach[site]]
            reads.append(reaching if reaching and rule != "centre" else [axis.centre[site]])
        seen = [v[(n, t, *position)] for position in itertools.product(*reads)]
        out[place] = any(seen) if rule == "any" else all(seen)
    return out


def convolved(
    x: np.ndarray,
    e: np.ndarray,
    weight: Callable[[int, int, tuple[int, ...]], float],
    bias: np.ndarray,
    axes: list[Axis],
    *,
    groups: int,
    rule: str,
    renormalize: bool,
    domain: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Eq. (19) and (20).

    Args:
        x: (N, T, C, *S).
        e: the same shape, bool.
        weight: of an output channel, an input channel and the taps.
        bias: (F,).
        axes: the geometry.
        groups: of channels.
        rule: of the mask.
        renormalize: whether sums are rescaled.
        domain: (N, *S) bool.
    """
    N, T, C = x.shape[:3]
    F = len(bias)
    e = e & domain[:, None, None]
    observed = moved(e.any(axis=2), axes, rule)
    out = np.zeros((N, T, F, *observed.shape[2:]))
    for n, t, f, *sites in itertools.product(*(range(size) for size in out.shape)):
        if not observed[(n, t, *sites)]:
            continue
        total, there, found = 0.0, 0, 0
        group = f // (F // groups)
        channels = range(group * (C // groups), (group + 1) * (C // groups))
        for pairs in itertools.product(*(axis.reach[site] for axis, site in zip(axes, sites, strict=True))):
            taps, position = tuple(tap for tap, _ in pairs), tuple(site for _, site in pairs)
            for c in channels:
                there += domain[(n, *position)]
                if e[(n, t, c, *position)]:
                    found += 1
                    total += weight(f, c, taps) * x[(n, t, c, *position)]
        ratio = there / found if renormalize and found else 1.0
        out[(n, t, f, *sites)] = ratio * total + bias[f]
    return out, observed


def pooled(x: np.ndarray, e: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Eq. (22) over axis 1 of (N, A, ...)."""
    out, anything = np.zeros((len(x), *x.shape[2:])), np.zeros((len(x), *x.shape[2:]), dtype=bool)
    for place in itertools.product(*(range(size) for size in out.shape)):
        n, *rest = place
        values = [x[(n, a, *rest)] for a in range(x.shape[1]) if e[(n, a, *rest)]]
        if values:
            how = {"mean": np.mean, "max": np.max, "sum": np.sum, "last": lambda them: them[-1]}[kind]
            out[place], anything[place] = how(values), True
    return out, anything
