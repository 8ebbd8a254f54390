"""gapcell.jax as the laws see it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gapcell.jax import apply
from gapcell.laws.adapter import Gradients
from gapcell.laws.cases import Case
from gapcell.laws.verdicts import require

# XLA's compiler takes most of the time of these tests, and with these options a third of it. Optimisation level 0 takes
# half of that again, but rounds float32 otherwise: it breaks law 13.
QUICK = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_backend_optimization_level": 1,
    "xla_cpu_parallel_codegen_split_count": 1,
}
OPTIONS = {"float32": QUICK, "float64": QUICK | {"xla_backend_optimization_level": 0}}


class JaxLayer:
    """gapcell.jax; a case in float64 runs with 64-bit types enabled, one in float32 without.

    Args:
        jit: whether a caller's jax.jit is around it, so that every array is traced; then compiled with `OPTIONS`.
        vjp: of `gapcell.jax.apply`.
        convolution: of `gapcell.jax.apply`.
        dropout: whether to draw dropout, in every run from the same key.
    """

    takes_params = True

    def __init__(
        self,
        jit: bool = False,
        vjp: Literal["lean", "plain"] = "lean",
        convolution: Literal["matmul", "xla"] | None = None,
        dropout: bool = False,
    ) -> None:
        self.jit, self.vjp, self.convolution, self.dropout = jit, vjp, convolution, dropout

    def run(self, case: Case) -> tuple[np.ndarray, Any]:
        """Values, without gradients."""
        with jax.enable_x64(case.x.dtype == np.float64):
            run = _jitted(_run, case.x.dtype.name) if self.jit else _run
            return _to_numpy(run(*self._arguments(case), **self._options(case)))

    def grad(self, case: Case, dy: np.ndarray, dstate: Any) -> Gradients:
        """Values and gradients in one pass."""
        with jax.enable_x64(case.x.dtype == np.float64):
            grad: Any = _jitted(_grad, case.x.dtype.name) if self.jit else _grad
            (y, last), found = grad(*self._arguments(case), (dy, dstate), **self._options(case))
            _check_complete(found, (case.params, case.x, case.state))
            return Gradients(*_to_numpy((y, last, *found)))

    def apply(self, params: Any, x: Any, spec: Any, **arguments: Any) -> Any:
        """What the laws judge; a mutant has its own."""
        return apply(params, x, spec, vjp=self.vjp, convolution=self.convolution, **arguments)

    def _arguments(self, case: Case) -> tuple[Any, ...]:
        given = {name: getattr(case, name) for name in ("mask", "lengths", "domain", "dt")}
        given["key"] = jax.random.key(0) if self.dropout else None
        return *jax.tree.map(jnp.asarray, (case.params, case.x, case.state)), jax.tree.map(jnp.asarray, given)

    def _options(self, case: Case) -> dict[str, Any]:
        return {"layer": self, "spec": case.spec}

    def __eq__(self, other: object) -> bool:
        """Layers of equal options share what is compiled."""
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))


def _run(params: Any, x: Any, state: Any, given: Any, *, layer: JaxLayer, spec: Any) -> Any:
    return layer.apply(params, x, spec, state=state, **given)


def _grad(params: Any, x: Any, state: Any, given: Any, cotangents: Any, *, layer: JaxLayer, spec: Any) -> Any:
    """The output and the last state, and the gradients of params, x and state."""

    def of_values(params: Any, x: Any, state: Any) -> Any:
        return _run(params, x, state, given, layer=layer, spec=spec)

    values, pull = jax.vjp(of_values, params, x, state)
    return values, pull(jax.tree.map(jnp.asarray, cotangents))


@cache
def _jitted(function: Callable[..., Any], dtype: str) -> Callable[..., Any]:
    return jax.jit(function, static_argnames=("layer", "spec"), compiler_options=OPTIONS[dtype])


def _check_complete(gradients: Any, of: Any) -> None:
    for (path, given), gradient in zip(
        jax.tree_util.tree_leaves_with_path(of),
        jax.tree.leaves(gradients, is_leaf=lambda leaf: leaf is None),
        strict=True,
    ):
        got = None if gradient is None else (gradient.shape, gradient.dtype)
        name = jax.tree_util.keystr(path)
        wanted = (given.shape, given.dtype)
        require(got == wanted, f"the gradient of {name} is {got}, expected {wanted}")


def _to_numpy(values: Any) -> Any:
    """Copies: NumPy's view of a JAX array may be the memory of the array that it was made from."""
    return jax.tree.map(np.array, values)
