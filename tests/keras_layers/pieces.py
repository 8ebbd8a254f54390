"""The layers around the recurrence, each with keras.layers' own and the rule of its mask written as loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

import gapcell.keras as ours
from keras_layers import receptive
from keras_layers.running import numpy, randomised

SHAPE = (3, 4, 5, 2)  # frames with two site axes, or sequences with one
theirs = keras.layers


@dataclass(frozen=True)
class Piece:
    """A layer of this package.

    Attributes:
        make: it, of keras.layers' namespace or ours.
        behind: the mask of its output from the mask, (N, 4, 5), of its input's places.
        own: whether keras.layers has it.
    """

    make: Callable[[Any], Any]
    behind: Callable[[np.ndarray], np.ndarray]
    own: bool = True

    def built(self, module: Any = ours, shape: tuple[int, ...] = SHAPE) -> Any:
        """The layer with random weights, positive where they are variances."""
        layer = self.make(module)
        layer.build((None, *shape[1:]))
        randomised(layer)
        layer.set_weights([np.abs(part) if part.ndim == 1 else part for part in layer.get_weights()])
        return layer


def unchanged(mask):
    return mask


def anything(mask):
    return mask.any((1, 2))


def steps(mask):
    return mask.any(2)


def conv(rule, *geometry, **options):
    return lambda mask: receptive.through_conv(mask, rule, *geometry, **options)


def by_step(rule, *geometry, **options):
    def behind(mask):
        folded = mask.reshape(-1, mask.shape[2])
        moved = receptive.through_conv(folded, rule, *geometry, **options)
        return moved.reshape(*mask.shape[:2], -1) & mask.any(2)[..., None]

    return behind


def transposed(rule, *geometry, **options):
    return lambda mask: receptive.through_conv_transpose(mask, rule, *geometry, **options)


def extra(module, **options):
    """Arguments that keras.layers' own do not have."""
    return options if module is ours else {}


PIECES = {
    "conv": Piece(lambda m: m.Conv2D(3, 3, padding="same"), conv("centre", 3)),
    "conv valid": Piece(lambda m: m.Conv2D(3, 2, strides=2, activation="sigmoid"), conv("all", 2, 2, padding="valid")),
    "conv any": Piece(
        lambda m: m.Conv2D(4, 3, padding="same", groups=2, **extra(m, mask_rule="any", renormalize=True)),
        conv("any", 3),
    ),
    "conv all dilated": Piece(
        lambda m: m.Conv2D(3, 2, dilation_rate=2, padding="same", **extra(m, mask_rule="all")),
        conv("all", 2, 1, 2),
    ),
    "conv transpose": Piece(
        lambda m: m.Conv2DTranspose(3, 3, strides=2, padding="same", **extra(m, renormalize=True)),
        transposed("centre", 3, 2, outs=(8, 10), left=0),
    ),
    "conv transpose any": Piece(
        lambda m: m.Conv2DTranspose(3, 2, strides=3, **extra(m, mask_rule="any")),
        transposed("any", 2, 3, outs=(12, 15)),
    ),
    "upsampling": Piece(lambda m: m.UpSampling2D((2, 1)), lambda mask: mask.repeat(2, 1)),
    "batch norm": Piece(lambda m: m.BatchNormalization(), unchanged),
    "group norm": Piece(lambda m: m.GroupNormalization(2), unchanged),
    "instance norm": Piece(lambda m: m.GroupNormalization(-1), unchanged),
    "layer norm": Piece(lambda m: m.LayerNormalization(), unchanged),
    "layer norm sites": Piece(lambda m: m.LayerNormalization([1, 2, 3], center=False, scale=False), unchanged),
    "mean": Piece(lambda m: m.GlobalAveragePooling2D(), anything),
    "max": Piece(lambda m: m.GlobalMaxPooling2D(), anything),
    "sum": Piece(lambda m: m.GlobalSumPooling2D(), anything, own=False),
    "mean of steps": Piece(lambda m: m.GlobalAveragePooling1D(), lambda mask: mask.any(1), own=False),
    "last": Piece(lambda m: m.LastObserved(), lambda mask: mask.any(1), own=False),
    "attention": Piece(lambda m: m.AttentionPooling(3), anything, own=False),
    "flatten": Piece(lambda m: m.Flatten(), anything),
    "conv by step": Piece(
        lambda m: m.TimeDistributed(m.Conv1D(3, 3, padding="causal")),
        by_step("centre", 3, padding="causal"),
    ),
    "dense by step": Piece(lambda m: m.TimeDistributed(theirs.Dense(3)), unchanged),
    "flatten by step": Piece(lambda m: m.TimeDistributed(theirs.Flatten()), steps),
    "keras conv by step": Piece(lambda m: m.TimeDistributed(theirs.Conv1D(3, 2)), steps),
}


def masks_for(seed: int = 1) -> dict[str, np.ndarray]:
    """One mask of each rank, with something masked entirely."""
    rng = np.random.default_rng(seed)
    ranks = {"sample": 1, "leading": 2, "site": 3, "element": 4}
    found = {name: rng.random(SHAPE[:rank]) < 0.6 for name, rank in ranks.items()}
    for mask in found.values():
        mask[-1] = False
        mask[0] |= mask.ndim == 1
    return found


def handed_on(y: Any) -> np.ndarray | None:
    """The mask that an output carries."""
    mask = ours.selection.carried(y)
    return None if mask is None else numpy(mask)
