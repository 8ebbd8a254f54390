"""A mark on values that only reverse mode may differentiate, so that forward mode is refused with its cure.

JAX's own refusal names neither the function nor what to do, and under jit it comes from the compiler. The mark is the
identity; its tangent passes a primitive that transposes but cannot be computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import jax
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

__all__ = ["forward_refused", "reverse_only"]

T = TypeVar("T")


def reverse_only(values: T) -> T:
    """The arrays as they are; differentiating them forwards is a TypeError that says to use vjp="plain"."""
    # One by one: an array that nobody differentiates must not get a tangent of zeros from its neighbours.
    return jax.tree.map(_marked, values)


@jax.custom_jvp
def _marked(array: Array) -> Array:
    return array


@contextmanager
def forward_refused() -> Iterator[None]:
    """Where vmap meets JAX's own refusal before the mark is computed: say the cure there too."""
    try:
        yield
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
        _refuse()


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


@_marked.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return primals[0], _tangent.bind(tangents[0])
