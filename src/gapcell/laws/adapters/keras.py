"""gapcell.keras as the laws see it, on the backend that Keras was started with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, ClassVar

import keras
import numpy as np

import gapcell.keras
from gapcell.laws.adapter import Gradients
from gapcell.laws.cases import Case, like, parts
from gapcell.laws.verdicts import CannotBeAsked, require
from gapcell.spec import Spec

BACKEND = keras.backend.backend()


def arguments_of_all(case: Case) -> dict[str, Any]:
    """What a recurrent convolution of a case's Spec is made with, be it Keras's own or ours."""
    spec = case.spec
    return {
        "filters": spec.filters,
        "kernel_size": spec.kernel_size,
        "strides": spec.stride,
        "padding": spec.padding,
        "dilation_rate": spec.dilation,
        "use_bias": spec.bias,
        "return_sequences": True,
        "return_state": True,
        "zero_output_for_mask": spec.masked_output == "zero",
        "dtype": str(case.x.dtype),
    }


class KerasLayer:
    """gapcell.keras on a case with one layer, in one direction or under Bidirectional.

    Args:
        compiled: around every run, e.g. tf.function; None: as it is.
        dropout: whether to run in training, every run with the same draw.
    """

    takes_params = True
    system = f"keras on {BACKEND}"
    options: ClassVar = {"same_padding": "keras"}

    def __init__(self, compiled: Callable[..., Any] | None = None, dropout: bool = False) -> None:
        self.compiled, self.dropout = compiled, dropout

    @staticmethod
    def fits(spec: Spec) -> bool:
        """Whether a Keras layer can be of this Spec."""
        alike = spec.recurrent_kernel_size == spec.kernel_size and spec.same_padding == "keras"
        return alike and spec.num_layers == 1

    def accepted_masks(self, case: Case) -> set[tuple[int, ...]]:
        """Shapes of masks that Keras's users give beside those of docs/semantics.md."""
        return {(*case.x.shape[:2], 1)}

    def run(self, case: Case) -> tuple[np.ndarray, Any]:
        """Values, without gradients."""
        with _precision(case):
            layer, arguments = self._layer(case), self.arguments(case)
            y, *last = _to_numpy(self._call(layer)(tensor(case.x), _state(case), arguments))
            return y, _by_direction(case, last)

    def grad(self, case: Case, dy: np.ndarray, dstate: Any) -> Gradients:
        """Values and gradients in one pass."""
        with _precision(case):
            layer, arguments = self._layer(case), self.arguments(case)
            cotangents = [tensor(dy), *_by_layer(case, dstate)]
            call = self._call(layer)
            outputs, found = _GRADIENTS[BACKEND](layer, call, tensor(case.x), _state(case), arguments, cotangents)
            y, *last = _to_numpy(outputs)
            weights, of_x, of_state = _to_numpy(found)
            return Gradients(
                y=y,
                last=_by_direction(case, last),
                params=_named(case, weights),
                x=of_x,
                state=_by_direction(case, of_state),
            )

    def _call(self, layer: Any) -> Callable[..., list[Any]]:
        def call(x: Any, state: Any, arguments: dict[str, Any]) -> list[Any]:
            return list(layer(x, initial_state=state, training=self.dropout, **arguments))

        return call if self.compiled is None else self.compiled(call)

    def made(self, case: Case) -> Any:
        """A layer, not built."""
        spec = case.spec
        if not self.fits(spec):
            raise CannotBeAsked("several layers, or a recurrent kernel of another size than the kernel")
        kind = getattr(gapcell.keras, f"Conv{spec.cell.upper()}{spec.rank}D")
        layer = kind(
            **arguments_of_all(case),
            dropout=spec.input_dropout,
            recurrent_dropout=spec.recurrent_dropout,
            seed=0,
            go_backwards=spec.go_backwards,
            gap=spec.gap,
            window=spec.window,
            causal=spec.causal,
            mask_rule=spec.mask_rule,
        )
        if spec.bidirectional:
            layer = gapcell.keras.Bidirectional(layer, dtype=str(case.x.dtype))
        return layer

    def _layer(self, case: Case) -> Any:
        layer, spec = self.made(case), case.spec
        layer.build((*case.x.shape[:-1], spec.in_channels))
        layer.set_weights([params[name] for params in case.params for name in spec.parameter_shapes()])
        return layer

    def arguments(self, case: Case) -> dict[str, Any]:
        """What the layer is told beside x and the state."""
        given = {name: getattr(case, name) for name in ("mask", "lengths", "domain", "dt")}
        return {name: tensor(value) for name, value in given.items() if value is not None}


def tensor(array: np.ndarray) -> Any:
    """One of the backend's."""
    return keras.ops.convert_to_tensor(array)


def _state(case: Case) -> list[Any] | None:
    """Without the axis of directions; a state of another shape goes as it is, to be refused."""
    if case.state is None:
        return None
    spec = case.spec
    sites = (spec.window,) if spec.window is not None else spec.output_sites(case.x.shape[2 : 2 + spec.rank])
    fitting = (spec.directions, len(case.x), *sites, spec.filters)
    return _by_layer(case, case.state, fitting)


def _by_layer(case: Case, state: Any, fitting: tuple[int, ...] | None = None) -> list[Any]:
    """The states of the forward layer, then those of the backward one."""
    return [
        tensor(part[direction] if fitting in (None, part.shape) else part)
        for direction in range(case.spec.directions)
        for part in parts(state)
    ]


def _by_direction(case: Case, states: list[np.ndarray]) -> Any:
    """The way back."""
    count = len(parts(case.state))
    return like(case.state, [np.stack(states[part::count]) for part in range(count)])


def _named(case: Case, weights: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
    names = list(case.spec.parameter_shapes())
    return [
        dict(zip(names, part, strict=True))
        for part in (weights[i : i + len(names)] for i in range(0, len(weights), len(names)))
    ]


def _to_numpy(values: Any) -> Any:
    """Copies, so that no result is the memory of an input."""
    return keras.tree.map_structure(lambda value: np.array(keras.ops.convert_to_numpy(value)), values)


@contextlib.contextmanager
def _precision(case: Case) -> Any:
    """float64 where the case has it, and messages without the arguments that Keras appends."""
    with contextlib.ExitStack() as stack:
        if BACKEND == "jax":
            import jax

            stack.enter_context(jax.enable_x64(case.x.dtype == np.float64))
        try:
            yield
        except ValueError as error:
            raise ValueError(str(error).partition("Arguments received by")[0]) from error


def _of_tensorflow(layer: Any, call: Any, x: Any, state: Any, arguments: Any, cotangents: Any) -> Any:
    import tensorflow as tf

    weights = [weight.value for weight in layer.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch([x, *state])
        outputs = call(x, state, arguments)
    found = tape.gradient(outputs, [weights, x, state], cotangents)
    require(all(gradient is not None for gradient in keras.tree.flatten(found)), "a gradient is None")
    return outputs, found


def _of_jax(layer: Any, call: Any, x: Any, state: Any, arguments: Any, cotangents: Any) -> Any:
    import jax

    weights = [weight.value for weight in layer.trainable_variables]

    def of_values(weights: Any, x: Any, state: Any) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(layer.trainable_variables, weights, strict=True))):
            return call(x, state, arguments)

    outputs, pull = jax.vjp(of_values, weights, x, state)
    return outputs, pull(cotangents)


def _of_torch(layer: Any, call: Any, x: Any, state: Any, arguments: Any, cotangents: Any) -> Any:
    import torch

    leaves = [x.requires_grad_(), *(part.requires_grad_() for part in state)]
    outputs = call(x, state, arguments)
    require(outputs[0].requires_grad, "the output has no gradients")
    torch.autograd.backward(outputs, cotangents)
    weights = [weight.value for weight in layer.trainable_variables]
    require(all(leaf.grad is not None for leaf in (*weights, *leaves)), "a gradient is None")
    of_x, *of_state = [leaf.grad for leaf in leaves]
    return outputs, ([weight.grad for weight in weights], of_x, of_state)


_GRADIENTS = {"tensorflow": _of_tensorflow, "jax": _of_jax, "torch": _of_torch}
