"""Tiny flax modules, a gapped batch for them, and how results are compared."""

from __future__ import annotations

import re

import jax
import numpy as np
import pytest
from flax import nnx

import gapcell.jax as gj

N, T, L, C, F = 3, 4, 5, 2, 3
rng = np.random.default_rng(0)
x = rng.normal(size=(N, T, L, C)).astype("float32")
mask = rng.random((N, T, L, C)) < 0.6
gapped = np.where(mask, x, np.nan).astype("float32")


def layer(kind=gj.ConvLSTM, seed=0, **options):
    return kind(C, F, 3, **options, rngs=nnx.Rngs(seed))


def cell_of(trained, kind=gj.ConvLSTMCell, **options):
    """A cell with the weights of a layer."""
    cell = layer(kind, seed=9, **options)
    nnx.update(cell, nnx.state(trained, nnx.Param))
    return cell


def same(left, right):
    """Whether two trees have the same structure and the same bits."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    return jax.tree.all(jax.tree.map(np.array_equal, left, right))


def assert_close(left, right, tolerance=2e-6):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for ours, theirs in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=tolerance * np.abs(theirs).max(initial=1), rtol=0)


def refused(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")
