"""The compiled kernel's two functions, forward and backward, as primitives of JAX.

Primitives, because only the compiler knows what is to become of them. In a program for one CPU, or for the one device
that each copy under jax.shard_map has, they are calls of the kernel: by XLA's foreign functions, else through Python.
Everywhere else they are the pure form of `recurrence`: on other platforms, in exports, which must run where gapcell is
not installed, and in programs that XLA divides over devices, as it cannot divide a call. The pure backward pass has no
use for what the kernel stores, and runs forward once more.

The kernel reads the masks when it runs, and what they leave out is not computed.
"""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, xla
from jax.sharding import NamedSharding, PartitionSpec

from gapcell import native
from gapcell.jax import recurrence
from gapcell.jax.operands import Cotangents, Gradients, Operands, Results, absent, to_inputs
from gapcell.jax.recurrence import Plan

__all__ = ["Call", "Store", "backward", "forward"]

Store = Literal["none", "fp32", "recompute"]

_MOST_THREADS = 1024  # that the library takes; called by XLA it goes no further than XLA's own threads


class Call(NamedTuple):
    """What is known of a primitive before any value.

    Attributes:
        plan: the layer, and how the pure form computes it.
        hold: what hs has where the state does not step: True: h_t, False: 0.
        store: see `native.Layer`.
        dx: whether backward gives the gradient of x.
    """

    plan: Plan
    hold: bool
    store: Store
    dx: bool = False


class _Function(NamedTuple):
    """One of the library's two functions.

    Attributes:
        primitive: JAX's name for it.
        target: its name for jax.ffi.
        reads: NamedTuples of operands, one behind the other.
        fills: NamedTuple of results.
        purely: the pure form.
    """

    primitive: Primitive
    target: str
    reads: tuple[Any, ...]
    fills: Any
    purely: Callable[..., Any]

    def __call__(self, call: Call, *groups: Any) -> Any:
        return self.fills(*self.primitive.bind(*(operand for group in groups for operand in group), call=call))

    def grouped(self, operands: Sequence[Any]) -> list[Any]:
        """Operands in the NamedTuples that they came in."""
        rest = iter(operands)
        return [group(*(next(rest) for _ in group._fields)) for group in self.reads]

    def named(self, operands: Sequence[Any]) -> dict[str, Any]:
        """Those operands that are there, by name."""
        pairs = zip((name for group in self.reads for name in group._fields), operands, strict=True)
        return {name: operand for name, operand in pairs if math.prod(operand.shape)}


def _described(call: Call, operands: Any, threads: int = _MOST_THREADS) -> native.Layer:
    """The kernel's layer for operands, or for their abstract values."""
    samples, steps, *sites, _ = operands.x.shape
    return native.Layer(
        call.plan.spec,
        samples=samples,
        steps=steps,
        sites=tuple(sites),
        store=call.store,
        held_output="hold" if call.hold else "zero",
        threads=threads,
    )


# The pure form --------------------------------------------------------------------------------------------------------


def _purely_forward(call: Call, operands: Operands) -> Results:
    """`stored` is of the size that the kernel's has, and empty of meaning."""
    hs, (h, *c) = recurrence.run_samples_first(call.plan, call.hold, to_inputs(operands))
    stored = jnp.zeros((_described(call, operands).stored_bytes(),), jnp.uint8)
    return Results(hs, h, c[0] if c else absent(), stored)


def _purely_backward(call: Call, operands: Operands, cotangents: Cotangents) -> Gradients:
    """From the operands alone: so it has the right derivatives itself, which hs and `stored` would take no part in."""
    inputs = to_inputs(operands)
    _, pull = jax.vjp(partial(recurrence.run_samples_first, call.plan, call.hold), inputs)
    (found,) = pull((cotangents.dhs, (cotangents.dh, cotangents.dc)[: len(inputs.state)]))
    kernel, recurrent_kernel, *biases, rates = (
        absent() if part is None else part.astype(jnp.float32) for part in found.parameters
    )
    dh0, *dc0 = found.state
    dx = found.x.astype(jnp.float32) if call.dx else absent()
    return Gradients(dx, kernel, recurrent_kernel, biases[0], biases[1], dh0, dc0[0] if dc0 else absent(), rates)


# What the primitives are to JAX ---------------------------------------------------------------------------------------


def _forward_shapes(call: Call, operands: Any) -> Results:
    x, h, c = operands.x, operands.h0, operands.c0
    return Results(
        hs=_like(x, (*x.shape[:2], *h.shape[1:])),
        h=_like(x, h.shape),
        c=_like(x, c.shape),
        stored=_like(x, (_described(call, operands).stored_bytes(),), jnp.uint8),
    )


def _backward_shapes(call: Call, operands: Any, cotangents: Any) -> Gradients:
    of = (operands.kernel, operands.recurrent_kernel, operands.bias, operands.recurrent_bias, operands.h0, operands.c0)
    shapes = (operands.x.shape if call.dx else (0,), *(array.shape for array in (*of, operands.rates)))
    return Gradients(*(_like(operands.x, shape) for shape in shapes))


def _like(aval: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Any:
    """An abstract value that varies over those axes of a mesh that another varies over."""
    nowhere = NamedSharding(aval.sharding.mesh, PartitionSpec(*(None,) * len(shape)))
    return aval.update(shape=shape, dtype=jnp.dtype(dtype), weak_type=False, sharding=nowhere)


def _differentiate(
    function: _Function, primals: Sequence[Array], tangents: Sequence[Any], *, call: Call
) -> tuple[Any, Any]:
    """Of a derivative, that is: the first one is kernel.py's. Here JAX's own rules apply to the pure form."""
    results = function.primitive.bind(*primals, call=call)
    plain = call._replace(plan=replace(call.plan, how=replace(call.plan.how, vjp="plain")))
    moving = [index for index, tangent in enumerate(tangents) if type(tangent) is not ad.Zero]

    def of_moving(*values: Array) -> list[Array]:
        operands = list(primals)
        for index, value in zip(moving, values, strict=True):
            operands[index] = value
        found = function.purely(plain, *function.grouped(operands))
        return [part for part in found if part.dtype == jnp.float32]

    _, moved = jax.jvp(of_moving, [primals[index] for index in moving], [tangents[index] for index in moving])
    rest = iter(moved)
    bytes_stand_still = (ad.Zero(jax.typeof(part).to_tangent_aval()) for part in results if part.dtype == jnp.uint8)
    return results, [next(rest if part.dtype == jnp.float32 else bytes_stand_still) for part in results]


def _one_by_one(function: _Function, operands: Sequence[Array], axes: Sequence[int | None], *, call: Call) -> Any:
    """Under jax.vmap: a call a member."""
    mapped = {
        index: jnp.moveaxis(operand, axis, 0)
        for index, (operand, axis) in enumerate(zip(operands, axes, strict=True))
        if axis is not None
    }

    def one(member: dict[int, Array]) -> list[Array]:
        return function.primitive.bind(*(member.get(index, whole) for index, whole in enumerate(operands)), call=call)

    results = lax.map(one, mapped)
    return results, [0] * len(results)


# Where they are compiled ----------------------------------------------------------------------------------------------


def _lower(function: _Function, pure: Any, ctx: Any, *operands: Any, call: Call) -> Any:
    """For a CPU."""
    module = ctx.module_context
    many = isinstance(module.axis_context, mlir.SPMDAxisContext)  # a callback is emitted for one device below
    if module.lowering_parameters.for_export or not _on_one_device(module.axis_context) or (many and not _registered()):
        return pure(ctx, *operands, call=call)
    if _registered():
        layer = np.frombuffer(_layer_bytes(function, ctx.avals_in, call), np.uint8)
        return jax.ffi.ffi_lowering(function.target)(ctx, *operands, layer=layer)
    made = [(aval.shape, aval.dtype) for aval in ctx.avals_out]
    results, _, _ = mlir.emit_python_callback(
        ctx,
        partial(_through_python, function, call, made),
        None,
        list(operands),
        ctx.avals_in,
        ctx.avals_out,
        has_side_effect=False,
        returns_token=False,
    )
    return results


def _on_one_device(context: Any) -> bool:
    """Whether this code runs on one device, or on each of many for itself."""
    if isinstance(context, mlir.SPMDAxisContext):
        return context.manual_axes == frozenset(context.mesh.axis_names)
    return getattr(context, "num_devices", 1) == 1


def _layer_bytes(function: _Function, avals: Sequence[Any], call: Call) -> bytes:
    given = function.named(avals)
    given.pop("stored", None)  # bytes, of which the kernel knows how many there must be
    described = {name: (aval.shape, aval.dtype.name) for name, aval in given.items()}
    return _described(call, function.grouped(avals)[0]).describe(described)


@functools.cache
def _registered() -> bool:
    """Whether XLA knows the library's functions."""
    handlers = native.xla_handlers()
    try:
        for name, handler in handlers.items():
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
    except Exception as error:  # whatever this jaxlib raises where it does not speak the version of the headers
        logging.getLogger(__name__).warning("JAX refuses the kernel's functions, so it goes through Python: %s", error)
        return False
    return bool(handlers)


def _through_python(
    function: _Function, call: Call, made: Sequence[tuple[tuple[int, ...], Any]], *operands: np.ndarray
) -> tuple[np.ndarray, ...]:
    """What the foreign function does, on NumPy's arrays: a callback that waits for JAX's may wait for itself."""
    read, results = function.named(operands), function.fills(*(_aligned(*like) for like in made))
    if "stored" in read:
        stored, read["stored"] = read["stored"], _aligned(read["stored"].shape, np.uint8)
        read["stored"][:] = stored
    filled = {name: result for name, result in results._asdict().items() if result.size}
    weights = {name: read.pop(name) for name in call.plan.spec.parameter_shapes() if name in read}
    layer = _described(call, function.grouped(operands)[0], _cores())
    (layer.forward if function is forward else layer.backward)(weights, **read, **filled)
    return results


def _aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array, not initialised, that begins at a multiple of 64 bytes."""
    count = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(count + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + count].view(dtype).reshape(shape)


def _cores() -> int:
    """That this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _make(
    name: str, reads: tuple[Any, ...], fills: Any, purely: Callable[..., Any], shapes: Callable[..., Any]
) -> _Function:
    primitive = Primitive(f"gapcell_{name}")
    made = _Function(primitive, f"gapcell_xla_{name}", reads, fills, purely)
    primitive.multiple_results = True
    primitive.def_impl(partial(xla.apply_primitive, primitive))
    primitive.def_abstract_eval(lambda *operands, call: tuple(shapes(call, *made.grouped(operands))))
    ad.primitive_jvps[primitive] = partial(_differentiate, made)
    batching.primitive_batchers[primitive] = partial(_one_by_one, made)
    pure = mlir.lower_fun(lambda *operands, call: tuple(purely(call, *made.grouped(operands))))
    mlir.register_lowering(primitive, pure)
    mlir.register_lowering(primitive, partial(_lower, made, pure), platform="cpu")
    return made


forward = _make("forward", (Operands,), Results, _purely_forward, _forward_shapes)
backward = _make("backward", (Operands, Cotangents), Gradients, _purely_backward, _backward_shapes)
