"""A mark on values that only reverse mode may differentiate, so that forward mode is refused with its cure.

JAX's own refusal names neither the function nor what to do, and under jit it comes from the compiler. The mark is the
identity; its tangent passes a primitive that transposes but cannot be computed.
"""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

__all__ = ["reverse_only"]

T = TypeVar("T")


@jax.custom_jvp
def reverse_only(values: T) -> T:
    """The values as they are; differentiating them forwards is a TypeError that says to use vjp="plain"."""
    return values


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise TypeError(
        'gapcell.jax.apply with vjp="lean" has no forward-mode derivative (jax.jvp, jax.jacfwd, jax.linearize); '
        'call it with vjp="plain"'
    )


_tangent = Primitive("gapcell_reverse_only")
_tangent.def_impl(_refuse)
_tangent.def_abstract_eval(lambda aval: aval)
ad.deflinear2(_tangent, lambda cotangent, _: [cotangent])
batching.defvectorized(_tangent)
mlir.register_lowering(_tangent, _refuse)


@reverse_only.defjvp
def _(values: Any, tangents: Any) -> tuple[Any, Any]:
    def mark(tangent: Any) -> Any:
        return tangent if tangent.dtype == jax.dtypes.float0 else _tangent.bind(tangent)

    return values[0], jax.tree.map(mark, tangents[0])
