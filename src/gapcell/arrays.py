"""One name for what NumPy, PyTorch and JAX call differently; no framework is imported that the caller has not."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = [
    "Array",
    "arange",
    "as_array",
    "is_concrete",
    "is_integer",
    "look_at",
    "move_axis",
    "namespace",
    "ones",
    "same_kind",
    "stable_argsort",
    "take",
    "take_along",
    "where",
    "zeros",
]

Array = Any  # a NumPy, PyTorch or JAX array; what comes in goes out


def namespace(x: Array) -> Any:
    """The module an array's functions are in: numpy, torch or jax.numpy."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):  # also a subclass from elsewhere
        return torch
    if type(x).__module__.partition(".")[0] in ("jax", "jaxlib"):
        return sys.modules["jax.numpy"]
    return np


def _is_torch(x: Array) -> bool:
    return namespace(x).__name__ == "torch"


def as_array(x: Array | Sequence[Any]) -> Array:
    """Leave an array as it is, and make a NumPy array of anything else."""
    return np.asarray(x) if namespace(x) is np else x


def same_kind(x: Array | Sequence[Any], like: Array) -> Array:
    """Turn x into the type of array, and onto the device, of `like`."""
    xp = namespace(like)
    if _is_torch(like):
        return xp.as_tensor(x, device=like.device)
    if xp is not np and isinstance(x, np.ndarray):
        # Under jit JAX would make a tracer of a constant, and its values could not be checked.
        with sys.modules["jax"].ensure_compile_time_eval():
            return xp.asarray(x)
    return xp.asarray(x)


def is_concrete(x: Array) -> bool:
    """Whether values may be looked at: not under a compiler, an exporter or a function transform."""
    xp = namespace(x)
    if xp is np:
        return True
    if xp.__name__ == "torch":
        return not (
            xp.compiler.is_compiling()
            or xp._C._are_functorch_transforms_active()
            or x.device.type == "meta"
            or type(x).__name__ == "FakeTensor"
        )
    return not isinstance(x, sys.modules["jax"].core.Tracer)


def look_at(x: Array) -> Array:
    """A concrete x for code that branches on its values: while JAX traces, even what is concrete computes tracers."""
    return x if _is_torch(x) else np.asarray(x)


def is_integer(x: Array) -> bool:
    """Whether the dtype is a whole number's; bool is not."""
    if _is_torch(x):
        return not (x.is_floating_point() or x.is_complex() or x.dtype == namespace(x).bool)
    return np.issubdtype(x.dtype, np.integer)


def move_axis(x: Array, source: int, destination: int) -> Array:
    """A view with one axis elsewhere."""
    # torch.vmap knows movedim, but not its alias moveaxis.
    return x.movedim(source, destination) if _is_torch(x) else namespace(x).moveaxis(x, source, destination)


def arange(stop: int, like: Array) -> Array:
    """The integers below `stop`, as the type of array of `like`."""
    xp = namespace(like)
    return xp.arange(stop, device=like.device) if _is_torch(like) else xp.arange(stop)


def ones(shape: tuple[int, ...], like: Array) -> Array:
    """True everywhere, as the type of array of `like`."""
    xp = namespace(like)
    return xp.ones(shape, dtype=xp.bool, device=like.device) if _is_torch(like) else xp.ones(shape, dtype=bool)


def zeros(shape: tuple[int, ...], like: Array) -> Array:
    """Zeros (False) with the type of array and dtype of `like`."""
    return like.new_zeros(shape) if _is_torch(like) else namespace(like).zeros(shape, dtype=like.dtype)


def where(condition: Array, x: Array, y: Array | int) -> Array:
    """Select x where the condition is True, else y, keeping the dtype of x."""
    # A bare 0 would turn a mask into integers.
    return namespace(x).where(condition, x, zeros((), x) if isinstance(y, int) else y)


def take(x: Array, index: list[int] | list[list[int]], axis: int) -> Array:
    """Read x at positions along one axis; the positions' axes take its place."""
    return x[(*(slice(None),) * axis, same_kind(index, x))]


def take_along(x: Array, index: Array, axis: int) -> Array:
    """Read x along one axis at an index that agrees with x before it and is 1 or agrees behind it."""
    xp = namespace(x)
    if _is_torch(x):
        # take_along_dim would freeze the number of rows in an export.
        return xp.gather(x, axis, index.expand(*index.shape[: axis + 1], *x.shape[axis + 1 :]))
    return xp.take_along_axis(x, index, axis)


def stable_argsort(keys: Array) -> Array:
    """The order that sorts each row, False first, equals in their order."""
    xp = namespace(keys)
    if xp is np:
        return np.argsort(keys, axis=1, kind="stable")
    if xp.__name__ == "torch":
        return xp.argsort(keys.to(xp.uint8), dim=1, stable=True)
    return xp.argsort(keys, axis=1, stable=True)
