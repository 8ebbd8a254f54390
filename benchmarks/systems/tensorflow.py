"""Systems that run on TensorFlow, as a graph or compiled by XLA (as `fit` does by default)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import keras
import tensorflow as tf

import gapcell.keras
from benchmarks.catalogue import KERAS, KERAS_XLA, ours_for
from benchmarks.shapes import Shape, make_input, make_mask
from benchmarks.systems.keras import make_layer

Run = Callable[[], object]


def keras_layer(package: ModuleType, jit_compile: bool, shape: Shape, observed: str, mode: str) -> Run:
    """Keras's or our layer."""
    layer, x = make_layer(package, shape), tf.constant(make_input(shape))
    if shape.calls:
        return streamed(layer, x, shape, jit_compile)
    mask = make_mask(shape, observed)
    mask = None if mask is None else tf.constant(mask)
    weights = [weight.value for weight in layer.trainable_variables]

    @tf.function(jit_compile=jit_compile)
    def forward() -> Any:
        return layer(x, mask=mask)

    @tf.function(jit_compile=jit_compile)
    def train() -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x, mask=mask, training=True))
        return tape.gradient(loss, weights)

    return {"forward": lambda: forward().numpy(), "train": lambda: train()[0].numpy()}[mode]


def streamed(layer: Any, x: Any, shape: Shape, jit_compile: bool) -> Run:
    """As many steps as a run has, each from the state that the one before left."""

    @tf.function(jit_compile=jit_compile)
    def step(h: Any, c: Any) -> Any:
        return layer(x, initial_state=[h, c])

    state = [tf.zeros(shape.state_shape)] * 2

    def run() -> None:
        nonlocal state
        for _ in itertools.repeat(None, shape.calls):
            output, *state = step(*state)
        output.numpy()

    return run


SYSTEMS = {
    KERAS: partial(keras_layer, keras.layers, False),
    ours_for(KERAS): partial(keras_layer, gapcell.keras, False),
    KERAS_XLA: partial(keras_layer, keras.layers, True),
    ours_for(KERAS_XLA): partial(keras_layer, gapcell.keras, True),
}
