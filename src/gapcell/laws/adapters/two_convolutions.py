"""What the ConvLSTMs of flax and dm-haiku share: two convolutions with a bias each, gates in the order i, g, f, o."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gapcell.laws.adapter import Gradients
from gapcell.laws.adapters.jax import QUICK
from gapcell.laws.cases import Case, parts


class TwoConvolutionsLayer:
    """A layer of JAX's, jitted; in one direction or both."""

    takes_params = True

    def forward(self, spec: Any, cell: Any, x: Any, state: Any, lengths: Any, backwards: bool) -> tuple[Any, Any]:
        """One direction with its output in the input's order; `cell` is of `their_parameters`, the state is (h, c)."""
        raise NotImplementedError

    def lengths(self, case: Case) -> np.ndarray | None:
        """What the layer is told about gaps."""
        raise NotImplementedError

    def run(self, case: Case) -> tuple[np.ndarray, Any]:
        """Values, compiled once a shape."""
        case.takes_only("bidirectional")
        with jax.enable_x64(case.x.dtype == np.float64):
            return _to_numpy(_run(*self._arguments(case), layer=self, spec=case.spec))

    def grad(self, case: Case, dy: np.ndarray, dstate: Any) -> Gradients:
        """Values and gradients of the parameters as the case has them."""
        case.takes_only("bidirectional")
        with jax.enable_x64(case.x.dtype == np.float64):
            cotangents = jnp.asarray(dy), tuple(map(jnp.asarray, parts(dstate)))
            (y, last), found = _grad(*self._arguments(case), cotangents, layer=self, spec=case.spec)
            return Gradients(*_to_numpy((y, last, *found)))

    def _arguments(self, case: Case) -> tuple[Any, ...]:
        state = case.state
        if state is None:
            shape = (case.spec.directions, len(case.x), *case.x.shape[2:-1], case.spec.filters)
            state = (np.zeros(shape, case.x.dtype),) * 2
        given = case.params, case.x, tuple(state), self.lengths(case)
        return tuple(jax.tree.map(jnp.asarray, part) for part in given)

    def __eq__(self, other: object) -> bool:
        """Layers of one kind share what is compiled."""
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))


def _values(params: Any, x: Any, state: Any, lengths: Any, *, layer: TwoConvolutionsLayer, spec: Any) -> Any:
    outputs, ends = [], []
    for direction in range(spec.directions):
        cell = their_parameters(params[direction], spec.filters)
        before = tuple(part[direction] for part in state)
        y, last = layer.forward(spec, cell, x, before, lengths, backwards=bool(direction))
        outputs.append(y)
        ends.append(last)
    return jnp.concatenate(outputs, axis=-1), tuple(jnp.stack(part) for part in zip(*ends, strict=True))


def _gradients(
    params: Any, x: Any, state: Any, lengths: Any, cotangents: Any, *, layer: TwoConvolutionsLayer, spec: Any
) -> Any:
    def of_values(params: Any, x: Any, state: Any) -> Any:
        return _values(params, x, state, lengths, layer=layer, spec=spec)

    values, pull = jax.vjp(of_values, params, x, state)
    return values, pull(cotangents)


_jitted = partial(jax.jit, static_argnames=("layer", "spec"), compiler_options=QUICK)
_run, _grad = _jitted(_values), _jitted(_gradients)


def their_parameters(cell: dict[str, Any], filters: int) -> dict[str, dict[str, Any]]:
    """Kernel and bias of both convolutions; both libraries add 1 to the forget gate in every step."""
    forget = jnp.zeros(4 * filters, cell["bias"].dtype).at[filters : 2 * filters].set(1)
    return {
        "of_input": {"kernel": _in_their_order(cell["kernel"]), "bias": _in_their_order(cell["bias"] - forget)},
        "of_state": {"kernel": _in_their_order(cell["recurrent_kernel"]), "bias": jnp.zeros_like(cell["bias"])},
    }


def _in_their_order(gates: Any) -> Any:
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    return jnp.concatenate([i, g, f, o], axis=-1)


def _to_numpy(values: Any) -> Any:
    """Copies: NumPy's view of a JAX array may be the memory of the array that it was made from."""
    return jax.tree.map(np.array, values)
