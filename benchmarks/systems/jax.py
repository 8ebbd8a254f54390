"""Systems that run on JAX, jitted."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import keras

import gapcell.jax
import gapcell.keras
from benchmarks.catalogue import FLAX, KERAS_JAX, OURS_ON_JAX, ours_for
from benchmarks.shapes import Shape, make_input, make_mask
from benchmarks.systems.keras import make_layer
from gapcell import Spec

Run = Callable[[], object]


def timed(outputs: Callable[..., Any], values: Any, inputs: tuple[Any, ...], mode: str) -> Run:
    """A pass, a pass and the gradients of `values`, or compiling the latter."""

    def gradients(values: Any, *inputs: Any) -> Any:
        return jax.grad(lambda values: jnp.sum(outputs(values, *inputs)))(values)

    if mode == "compile":

        def compile_anew() -> None:
            jax.clear_caches()
            jax.jit(gradients).lower(values, *inputs).compile()

        return compile_anew
    run = jax.jit(outputs if mode == "forward" else gradients)
    return lambda: jax.block_until_ready(run(values, *inputs))


def streamed(step: Callable[[Any, Any], Any], values: Any, shape: Shape) -> Run:
    """As many steps as a run has, each from the state that the one before left."""
    compiled, state = jax.jit(step), (jnp.zeros(shape.state_shape),) * 2

    def run() -> None:
        nonlocal state
        for _ in itertools.repeat(None, shape.calls):
            state = compiled(values, state)
        jax.block_until_ready(state)

    return run


def flax_layer(shape: Shape, observed: str, mode: str) -> Run:
    cell = flax.linen.ConvLSTMCell(shape.filters, (shape.kernel,) * shape.rank)
    x = jnp.asarray(make_input(shape))
    if shape.calls:
        values = cell.init(jax.random.key(0), (jnp.zeros(shape.state_shape),) * 2, x[:, 0])
        return streamed(lambda values, state: cell.apply(values, state, x[:, 0])[0], values, shape)
    layer = flax.linen.RNN(cell)
    return timed(layer.apply, layer.init(jax.random.key(0), x), (x,), mode)


def ours(shape: Shape, observed: str, mode: str) -> Run:
    spec = Spec(rank=shape.rank, in_channels=shape.channels, filters=shape.filters, kernel_size=shape.kernel)
    params, x = gapcell.jax.init(jax.random.key(0), spec), jnp.asarray(make_input(shape))
    if shape.calls:
        return streamed(lambda params, state: gapcell.jax.apply(params, x, spec, state=state)[1], params, shape)
    mask = make_mask(shape, observed)
    mask = None if mask is None else jnp.asarray(mask)
    return timed(lambda params, x, mask: gapcell.jax.apply(params, x, spec, mask=mask)[0], params, (x, mask), mode)


def keras_layer(package: ModuleType, shape: Shape, observed: str, mode: str) -> Run:
    """Keras's or our layer on Keras's JAX backend; without a mask, as Keras's own takes none of steps here."""
    layer, x = make_layer(package, shape), jnp.asarray(make_input(shape))
    values = [weight.value for weight in layer.trainable_variables]
    fixed = [weight.value for weight in layer.non_trainable_variables]
    if shape.calls:

        def step(values: Any, state: Any) -> Any:
            (_, h, c), _ = layer.stateless_call(values, fixed, x, initial_state=list(state))
            return h, c

        return streamed(step, values, shape)

    def outputs(values: Any, x: Any) -> Any:
        return layer.stateless_call(values, fixed, x, training=mode != "forward")[0]

    return timed(outputs, values, (x,), mode)


SYSTEMS = {
    FLAX: flax_layer,
    OURS_ON_JAX: ours,
    KERAS_JAX: partial(keras_layer, keras.layers),
    ours_for(KERAS_JAX): partial(keras_layer, gapcell.keras),
}
