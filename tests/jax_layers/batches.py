"""Small batches with gaps, what the oracle makes of them, and one way to compare."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gapcell.jax as gj
from gapcell import Spec, reference

CELLS = ["lstm", "gru"]
SITES = {1: (5,), 2: (3, 4), 3: (2, 3, 2)}


class Batch(NamedTuple):
    """NumPy arrays in float64; `said` is what a caller says of the batch: mask, where it matters lengths and dt."""

    params: Any
    x: np.ndarray
    state: Any
    said: dict[str, np.ndarray]


# Rank and options of a layer, by name: every option once.
OPTIONS = {
    "stride": {"stride": 2},
    "valid": {"padding": "valid", "kernel_size": 2},
    "dilation": {"dilation": 2},
    "causal": {"causal": True},
    "window": {"window": 2},
    "causal window": {"window": 3, "causal": True},
    "bidirectional stack": {"num_layers": 2, "bidirectional": True},
    "predict": {"gap": "predict"},
    "held output": {"masked_output": "hold"},
    "decay": {"gap": "decay", "masked_output": "hold"},
    "backwards": {"go_backwards": True},
    "other recurrent kernel": {"kernel_size": 2, "recurrent_kernel_size": 3},
    "without bias": {"bias": False},
}
CASES = {f"{rank}d": (rank, {}) for rank in (1, 2, 3)} | {name: (1, options) for name, options in OPTIONS.items()}


def make_spec(cell="lstm", rank=1, **options):
    return Spec(**{"cell": cell, "rank": rank, "in_channels": 2, "filters": 3, "kernel_size": 3, **options})


def make_params(spec, seed=0):
    """From NumPy, as jax.random compiles something for every shape; larger weights would be chaotic, smaller dull."""
    rng = np.random.default_rng(seed)
    cells = [
        {name: rng.normal(size=shape) / max(math.prod(shape[:-1]), 4) ** 0.5 for name, shape in shapes.items()}
        for shapes in map(spec.parameter_shapes, range(spec.num_layers))
        for _ in range(spec.directions)
    ]
    for cell in cells:
        cell |= {name: np.abs(rates) for name, rates in cell.items() if name == "decay"}
    return cells if len(cells) > 1 else cells[0]


def make_batch(spec, N=2, T=4, seed=0):
    """A third of the sites is missing and holds NaN; under predict and decay a row is also shorter."""
    rng = np.random.default_rng([seed, 1])
    series = spec.window is not None
    shape = (N, T) if series else (N, T, *SITES[spec.rank])
    mask = rng.random(shape) < 2 / 3
    x = np.where(mask[..., None], rng.normal(size=(*shape, spec.in_channels)), np.nan)
    sites = (spec.window,) if series else spec.output_sites(shape[2:])
    state = rng.normal(size=(2, spec.num_layers * spec.directions, N, *sites, spec.filters)) / 2
    said = {"mask": mask}
    if spec.gap != "hold":
        said["lengths"] = np.arange(N) % 2 + T - 1
    if spec.gap == "decay":
        said["dt"] = rng.exponential(size=(N, T))
    return Batch(make_params(spec, seed), x, tuple(state) if spec.cell == "lstm" else state[0], said)


def oracle(spec, batch):
    return reference.conv_rnn(batch.params, batch.x, spec, state=batch.state, **batch.said)


def loss(spec, params, x, state=None, **options):
    """A number that every output and state bears on, each in its own way."""
    y, last = gj.apply(params, x, spec, state=state, **options)
    total = jnp.sum(jnp.sin(y))
    return total + sum(jnp.sum(jnp.cos(part + index)) for index, part in enumerate(jax.tree.leaves(last)))


def assert_close(got, want, tolerance=1e-12):
    """Leaf by leaf, relative to the largest value of each."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    for one, other in ((np.asarray(one, np.float64), np.asarray(other, np.float64)) for one, other in pairs):
        assert one.shape == other.shape
        assert np.isfinite(one).all()
        assert np.abs(one - other).max(initial=0.0) <= tolerance * np.abs(other).max(initial=0.0)


def assert_not_zero(tree):
    """That a comparison says something: no leaf is zero throughout."""
    assert all(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(tree))
