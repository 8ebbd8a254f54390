"""What tests do differently on each backend: gradients; and small batches with gaps."""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import numpy as np

BACKEND = keras.backend.backend()
SITES = {1: (5,), 2: (4, 3), 3: (3, 2, 3)}
N, T, C, F = 3, 4, 2, 3


def numpy(values: Any) -> Any:
    """Tensors as arrays; a layer's states may come as a tuple or a list."""
    return keras.tree.map_structure(lambda value: np.array(keras.ops.convert_to_numpy(value)), values)


def batch(rank: int = 1, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(N, T, *SITES[rank], C)).astype(dtype)


def masks_of(x: np.ndarray, seed: int = 1) -> dict[str, np.ndarray]:
    """One of each rank, by its name in docs/semantics.md."""
    rng = np.random.default_rng(seed)
    shapes = {"step": x.shape[:2], "site": x.shape[:-1], "element": x.shape}
    return {name: rng.random(shape) < 0.6 for name, shape in shapes.items()}


def spoiled(x: np.ndarray, mask: np.ndarray, fill: float = np.nan) -> np.ndarray:
    """x with `fill` where the mask is False."""
    return np.where(mask.reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim)), x, np.asarray(fill, x.dtype))


def randomised(layer: Any, scale: float = 0.5, seed: int = 0) -> Any:
    """The built layer with weights large enough for its gates to leave their linear range."""
    rng = np.random.default_rng(seed)
    layer.set_weights([(rng.normal(size=weight.shape) * scale).astype(weight.dtype) for weight in layer.weights])
    return layer


def gradients(layer: Any, x: np.ndarray, **arguments: Any) -> tuple[list[np.ndarray], np.ndarray]:
    """Of the sum of squares of the output: by weight, and for x."""
    return _GRADIENTS[BACKEND](layer, x, arguments)


def _sum_of_squares(values: Any) -> Any:
    return sum(keras.ops.sum(keras.ops.square(value)) for value in keras.tree.flatten(values))


def _in_tensorflow(layer: Any, x: np.ndarray, arguments: dict[str, Any]) -> Any:
    import tensorflow as tf

    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = _sum_of_squares(layer(x, **arguments))
    weights, of_x = tape.gradient(loss, ([weight.value for weight in layer.trainable_variables], x))
    return numpy(weights), numpy(of_x)


def _in_jax(layer: Any, x: np.ndarray, arguments: dict[str, Any]) -> Any:
    import jax
    import jax.numpy as jnp

    fixed = [weight.value for weight in layer.non_trainable_variables]

    def loss(weights: Any, x: Any) -> Any:
        return _sum_of_squares(layer.stateless_call(weights, fixed, x, **arguments)[0])

    return numpy(jax.grad(loss, (0, 1))([weight.value for weight in layer.trainable_variables], jnp.asarray(x)))


def _in_torch(layer: Any, x: np.ndarray, arguments: dict[str, Any]) -> Any:
    import torch

    x = torch.tensor(x, requires_grad=True)
    layer.zero_grad()
    _sum_of_squares(layer(x, **arguments)).backward()
    found = [weight.value.grad for weight in layer.trainable_variables]
    assert all(gradient is not None for gradient in found), "a gradient is None"
    return numpy(found), numpy(x.grad)


_GRADIENTS = {"tensorflow": _in_tensorflow, "jax": _in_jax, "torch": _in_torch}


@contextlib.contextmanager
def policy(name: str) -> Any:
    """A dtype policy for the layers made inside."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
