"""One name for what NumPy, PyTorch, JAX and TensorFlow call differently.

No framework is imported that the caller has not imported. Sizes may be tensors: TensorFlow's graphs know some only when
they run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = [
    "Array",
    "all_along",
    "any_along",
    "arange",
    "as_array",
    "as_float",
    "cast",
    "cast_wide",
    "concatenate",
    "count_along",
    "cumulative_count",
    "equal_sizes",
    "exp",
    "expand",
    "is_bool",
    "is_complex",
    "is_concrete",
    "is_integer",
    "isnan",
    "look_at",
    "move_axis",
    "namespace",
    "of_sizes",
    "ones",
    "reshape",
    "reverse",
    "running_sum",
    "same_kind",
    "shape",
    "stable_argsort",
    "sum_along",
    "take",
    "take_rows",
    "to_numpy",
    "where",
    "zeros",
]

Array = Any  # a NumPy, PyTorch, JAX or TensorFlow array; what comes in goes out
Sizes = tuple[Any, ...]  # ints, or where TensorFlow does not know them yet, scalar tensors


def namespace(x: Array) -> Any:
    """The module an array's functions are in: numpy, torch, jax.numpy or tensorflow."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):  # also a subclass from elsewhere
        return torch
    package = type(x).__module__.partition(".")[0]
    if package in ("jax", "jaxlib"):
        return sys.modules["jax.numpy"]
    return sys.modules["tensorflow"] if package == "tensorflow" else np


def _is_torch(x: Array) -> bool:
    return namespace(x).__name__ == "torch"


def _is_tensorflow(x: Array) -> bool:
    return namespace(x).__name__.startswith("tensorflow")


def as_array(x: Array | Sequence[Any]) -> Array:
    """Leave an array as it is, and make a NumPy array of anything else."""
    return np.asarray(x) if namespace(x) is np else x


def same_kind(x: Array | Sequence[Any], like: Array) -> Array:
    """Turn x into the type of array, and onto the device, of `like`."""
    xp = namespace(like)
    if _is_torch(like):
        return xp.as_tensor(x, device=like.device)
    if _is_tensorflow(like):
        return xp.convert_to_tensor(x)
    if xp is not np and isinstance(x, np.ndarray):
        # Under jit JAX would make a tracer of a constant, and its values could not be checked.
        with sys.modules["jax"].ensure_compile_time_eval():
            return xp.asarray(x)
    return xp.asarray(x)


# What is known of an array --------------------------------------------------------------------------------------------


def shape(x: Array) -> Sizes:
    """The sizes of x."""
    if not _is_tensorflow(x):
        return tuple(x.shape)
    dynamic = namespace(x).shape(x)
    return tuple(dynamic[axis] if size is None else size for axis, size in enumerate(x.shape))


def equal_sizes(left: Sequence[Any], right: Sequence[Any]) -> bool:
    """Whether two shapes are equal as far as they are known."""
    return len(left) == len(right) and all(
        _unknown(a) or _unknown(b) or a == b for a, b in zip(left, right, strict=True)
    )


def of_sizes(x: Array, sizes: Sizes, refusal: str) -> Array:
    """An x of these sizes as it is; where a graph of TensorFlow does not know them, it refuses others when it runs."""
    if not _is_tensorflow(x) or not any(map(_unknown, (*x.shape, *sizes))):
        return x
    tf = namespace(x)
    same = tf.debugging.assert_equal(tf.shape(x), tf.stack(sizes), refusal)
    with tf.control_dependencies([same]):  # XLA drops it, but refuses to reshape
        return tf.reshape(x, sizes)


def _unknown(size: Any) -> bool:
    # Only TensorFlow's sizes may be tensors; torch.compile can trace no more than this of a number.
    return size is None or (not isinstance(size, int) and hasattr(size, "get_shape"))


def is_concrete(x: Array) -> bool:
    """Whether values may be looked at: not under a compiler, an exporter or a function transform."""
    xp = namespace(x)
    if xp is np:
        return True
    if _is_torch(x):
        return not (
            xp.compiler.is_compiling()
            or xp._C._are_functorch_transforms_active()
            or x.device.type == "meta"
            or type(x).__name__ == "FakeTensor"
        )
    if _is_tensorflow(x):
        return hasattr(x, "numpy")
    return not isinstance(x, sys.modules["jax"].core.Tracer)


def look_at(x: Array) -> Array:
    """A concrete x for code that branches on its values: while JAX traces, even what is concrete computes tracers."""
    return x if _is_torch(x) else np.asarray(x)


def to_numpy(x: Array) -> np.ndarray:
    """The values as a NumPy array, apart from gradients and devices; bfloat16, which NumPy has not, as float32."""
    if _is_torch(x):
        x = x.detach().cpu()
        return (x.float() if x.dtype == namespace(x).bfloat16 else x).numpy()
    x = np.asarray(x.numpy() if hasattr(x, "numpy") else x)  # Keras's variables and TensorFlow's tensors have it
    return x.astype(np.float32) if x.dtype.name == "bfloat16" else x


def is_integer(x: Array) -> bool:
    """Whether the dtype is a whole number's; bool is not."""
    if _is_torch(x):
        return not (x.is_floating_point() or x.is_complex() or x.dtype == namespace(x).bool)
    return x.dtype.is_integer if _is_tensorflow(x) else np.issubdtype(x.dtype, np.integer)


def is_bool(x: Array) -> bool:
    """Whether the dtype is bool."""
    return x.dtype == (namespace(x).bool if _is_torch(x) or _is_tensorflow(x) else np.dtype(bool))


def is_complex(x: Array) -> bool:
    """Whether the dtype is complex."""
    return "complex" in str(x.dtype)


# Making arrays --------------------------------------------------------------------------------------------------------


def arange(stop: Any, like: Array) -> Array:
    """The integers below `stop`, as the type of array of `like`, and of its dtype if that is a whole number's."""
    xp = namespace(like)
    if _is_torch(like):
        return xp.arange(stop, device=like.device)
    if _is_tensorflow(like):
        dtype = like.dtype if is_integer(like) else xp.int32
        return xp.range(xp.cast(stop, dtype), dtype=dtype)
    return xp.arange(stop)


def ones(shape: Sizes, like: Array) -> Array:
    """True everywhere, as the type of array of `like`."""
    xp = namespace(like)
    return xp.ones(shape, dtype=xp.bool, device=like.device) if _is_torch(like) else xp.ones(shape, dtype=bool)


def zeros(shape: Sizes, like: Array) -> Array:
    """Zeros (False) with the type of array and dtype of `like`."""
    return like.new_zeros(shape) if _is_torch(like) else namespace(like).zeros(shape, dtype=like.dtype)


def as_float(x: Array) -> Array:
    """Real numbers as they are; bool and integers in the type that the framework makes floats of."""
    xp = namespace(x)
    if not (is_bool(x) or is_integer(x)):
        return x
    if _is_torch(x):
        return x.to(xp.get_default_dtype())
    return xp.cast(x, xp.keras.config.floatx()) if _is_tensorflow(x) else x.astype(float)


def cast_wide(x: Array, like: Array) -> Array:
    """The values of x in the floating-point dtype of `like`, or in float32 where that is narrower."""
    xp = namespace(x)
    if _is_torch(x):
        return x.to(xp.promote_types(like.dtype, xp.float32))
    wide = "float64" if "float64" in str(like.dtype) else "float32"
    return xp.cast(x, wide) if _is_tensorflow(x) else x.astype(wide)


def cast(x: Array, like: Array) -> Array:
    """The values of x in the dtype of `like`."""
    if _is_torch(x):
        return x.to(like.dtype)
    return namespace(x).cast(x, like.dtype) if _is_tensorflow(x) else x.astype(like.dtype)


# Element by element ---------------------------------------------------------------------------------------------------


def isnan(x: Array) -> Array:
    """True where x is NaN."""
    return namespace(x).math.is_nan(x) if _is_tensorflow(x) else namespace(x).isnan(x)


def exp(x: Array) -> Array:
    """The exponential function."""
    return namespace(x).exp(x)


def where(condition: Array, x: Array, y: Array | int) -> Array:
    """Select x where the condition is True, else y, keeping the dtype of x."""
    if isinstance(y, int) and y == 0 and is_bool(x):
        return condition & x  # ONNX's runtime selects no booleans
    # A bare 0 would turn a mask into integers.
    return namespace(x).where(condition, x, zeros((), x) if isinstance(y, int) else y)


# Along an axis --------------------------------------------------------------------------------------------------------


def any_along(mask: Array, axis: int) -> Array:
    """Whether any is True along one axis."""
    return namespace(mask).reduce_any(mask, axis) if _is_tensorflow(mask) else mask.any(axis)


def all_along(mask: Array, axis: int) -> Array:
    """Whether all are True along one axis."""
    return namespace(mask).reduce_all(mask, axis) if _is_tensorflow(mask) else mask.all(axis)


def count_along(mask: Array, axis: int) -> Array:
    """How many are True along one axis."""
    if _is_tensorflow(mask):
        return namespace(mask).math.count_nonzero(mask, axis, dtype=namespace(mask).int32)
    return mask.sum(axis)


def cumulative_count(mask: Array, axis: int) -> Array:
    """How many are True along one axis up to each place."""
    if _is_tensorflow(mask):
        return namespace(mask).cumsum(namespace(mask).cast(mask, "int32"), axis)
    return mask.cumsum(axis)


def running_sum(values: Array, restart: Array) -> Array:
    """The sum over axis 1 up to each place, begun anew wherever `restart` is True; both (N, T, ...).

    Sums double their reach in every round: no long sum is taken from another, which float32 would not survive.
    """
    steps = shape(values)[1]
    place = arange(steps, restart)[(slice(None), *(None,) * (values.ndim - 2))]
    for distance in _doubled(steps, values):
        near, source = place >= distance, arange(steps, restart) - distance
        source = where(source >= 0, source, 0)
        values = values + where(near & ~restart, take(values, source, 1), 0)
        restart = restart | (near & take(restart, source, 1))
    return values


def _doubled(steps: Any, x: Array) -> list[int]:
    """1, 2, 4, ... below `steps`; of an unknown number of steps, those that reach over a million."""
    known = isinstance(steps, int) and not (_is_torch(x) and namespace(x).compiler.is_exporting())
    count = max(steps - 1, 0).bit_length() if known else 20
    return [2**power for power in range(count)]


def sum_along(x: Array, axis: int) -> Array:
    """The sum along one axis."""
    return namespace(x).reduce_sum(x, axis) if _is_tensorflow(x) else x.sum(axis)


def move_axis(x: Array, source: int, destination: int) -> Array:
    """A view with one axis elsewhere."""
    if _is_tensorflow(x):
        order = [axis for axis in range(len(x.shape)) if axis != source % len(x.shape)]
        order.insert(destination % len(x.shape), source % len(x.shape))
        return namespace(x).transpose(x, order)
    # torch.vmap knows movedim, but not its alias moveaxis.
    return x.movedim(source, destination) if _is_torch(x) else namespace(x).moveaxis(x, source, destination)


def reverse(x: Array, axis: int) -> Array:
    """The last first along one axis."""
    if _is_torch(x):
        return x.flip(axis)
    return namespace(x).reverse(x, [axis]) if _is_tensorflow(x) else namespace(x).flip(x, axis)


def expand(x: Array, ndim: int) -> Array:
    """A view with axes of size 1 behind, so that there are `ndim` of them."""
    return x[(..., *(None,) * (ndim - x.ndim))]


def reshape(x: Array, sizes: Sizes) -> Array:
    """The values of x in another shape."""
    return namespace(x).reshape(x, sizes)


def concatenate(parts: Sequence[Array], axis: int) -> Array:
    """Arrays behind each other along an axis."""
    xp = namespace(parts[0])
    return (xp.concat if _is_tensorflow(parts[0]) else xp.concatenate)(list(parts), axis)


def take(x: Array, index: Array | list[int] | list[list[int]], axis: int) -> Array:
    """Read x at positions along one axis; the positions' axes take its place."""
    index = same_kind(index, x)
    if _is_tensorflow(x):
        return namespace(x).gather(x, index, axis=axis)
    return x[(*(slice(None),) * axis, index)]


def take_rows(x: Array, index: Array) -> Array:
    """Read every row of x (N, S, ...) in an order of its own, index (N, S')."""
    xp = namespace(x)
    if _is_tensorflow(x):
        return xp.gather(x, index, axis=1, batch_dims=1)
    index = expand(index, x.ndim)
    if _is_torch(x):
        # take_along_dim would freeze the number of rows in an export.
        return xp.gather(x, 1, index.expand(*index.shape[:2], *x.shape[2:]))
    return xp.take_along_axis(x, index, 1)


def stable_argsort(keys: Array) -> Array:
    """The order that sorts each row, False first, equals in their order."""
    xp = namespace(keys)
    if xp is np:
        return np.argsort(keys, axis=1, kind="stable")
    if _is_torch(keys):
        # by counting, as ONNX has no stable sort
        first = ~keys
        place = xp.where(keys, first.sum(1, keepdim=True) + keys.cumsum(1), first.cumsum(1)) - 1
        return xp.zeros_like(place).scatter(1, place, xp.arange(keys.shape[1], device=keys.device).expand_as(place))
    if _is_tensorflow(keys):
        return xp.argsort(xp.cast(keys, "int32"), axis=1, stable=True)
    return xp.argsort(keys, axis=1, stable=True)
