"""Dropout: what is drawn once a batch, and where it acts (section 2 of docs/semantics.md)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gapcell.spec import Spec

__all__ = ["Scales", "draw"]


class Scales(NamedTuple):
    """Factors that drop or enlarge channels: 0 or 1/(1-p); None where nothing is dropped.

    Attributes:
        input: on x~, broadcast over (N, T, *S, C).
        recurrent: on h_(t-1) inside eq. (6), one a layer and direction, broadcast over (N, *S', F).
        between: on each layer's output but the last's, broadcast over (N, T, *S', F·directions).
    """

    input: Array | None
    recurrent: tuple[Array | None, ...]
    between: tuple[Array | None, ...]


def draw(key: Array | None, spec: Spec, samples: int, dtype: DTypeLike, state_dtype: DTypeLike) -> Scales:
    """One draw a sequence and channel, the same at every step and site; without a key nothing is dropped."""
    places = spec.num_layers * spec.directions

    def scale(place: int, probability: float, axes: int, channels: int, dtype: DTypeLike) -> Array | None:
        if key is None or not probability:
            return None
        shape = (samples, *(1,) * axes, channels)
        kept = jax.random.bernoulli(jax.random.fold_in(key, place), 1 - probability, shape)
        return jnp.where(kept, 1 / (1 - probability), 0).astype(dtype)

    axes = 1 if spec.window is not None else spec.rank + 1  # of x between its samples and its channels
    width = spec.filters * spec.directions
    return Scales(
        scale(0, spec.input_dropout, axes, spec.in_channels, dtype),
        tuple(
            scale(1 + place, spec.recurrent_dropout, spec.rank, spec.filters, state_dtype) for place in range(places)
        ),
        tuple(scale(1 + places + index, spec.dropout, axes, width, dtype) for index in range(spec.num_layers - 1)),
    )
