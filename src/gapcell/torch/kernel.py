"""The recurrence on the compiled CPU kernel, as differentiable PyTorch.

The kernel reads x, masks and states where they lie and visits observed sites only, so nothing is sorted or packed.
Weights are packed for every call: no version counter shows every change of a tensor in place.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from gapcell import native
from gapcell.torch import differentiable, threads
from gapcell.torch.arguments import Arguments, Run
from gapcell.torch.buffers import pool

__all__ = ["backward", "forward", "pack", "run", "serves", "takes"]


def serves(x: Tensor, low: torch.dtype, state: tuple[Tensor, ...]) -> bool:
    """Whether the kernel runs here and on such tensors; x is concrete."""
    return takes(x, low, state) and native.active().name != "off"


def takes(x: Tensor, low: torch.dtype, state: tuple[Tensor, ...]) -> bool:
    """Whether such tensors are the kernel's, where there is one."""
    return (
        x.device.type == "cpu"
        and low in (torch.float32, torch.bfloat16)
        and all(part.dtype != torch.float64 for part in state)
    )


def run(how: Run, arguments: Arguments) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run the layer.

    Returns:
        output (N, T, *S', F), float32, and the final state, each (N, *S', F).
    """
    recording = torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in arguments)
    output, *final = _Recurrence.apply(how, *arguments) if recording else forward(how, arguments, None)
    return output, tuple(final)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, how: Run, *given: Tensor | None) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        arguments = Arguments._make(given)
        update = None if arguments.update is None else arguments.update.contiguous()
        ctx.how = how
        ctx.stored = pool.borrow((_layer(how, arguments, how.store).stored_bytes(update),), _BYTES)
        outputs = forward(how, arguments, ctx.stored.tensor)
        ctx.save_for_backward(*given, outputs[0])
        return outputs

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        *given, output = ctx.saved_tensors
        arguments, wanted = Arguments._make(given), ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            # create_graph: what the kernel computes would come back as constants.
            return (
                None,
                *differentiable.gradients(partial(differentiable.run, ctx.how), arguments, cotangents, wanted),
            )
        return (None, *backward(ctx.how, arguments, ctx.stored.tensor, output, cotangents, wanted))


def forward(how: Run, arguments: Arguments, stored: Tensor | None) -> tuple[Tensor, ...]:
    """Output (N, T, *S', F) and the final state, each (N, *S', F), all float32.

    Args:
        how: the layer and how to run it.
        arguments: what it reads.
        stored: filled for `backward`; None: nothing is kept.
    """
    layer = _layer(how, arguments, "none" if stored is None else how.store)
    output = torch.empty((*arguments.x.shape[:2], *arguments.h.shape[1:]))
    final = {name: torch.empty(arguments.h.shape) for name in _states(arguments)}
    weights = _parameters(arguments) if how.packed is None else how.packed
    layer.forward(weights, **_read(arguments), **final, hs=output, stored=stored)
    return (output, *final.values())


def backward(
    how: Run,
    arguments: Arguments,
    stored: Tensor,
    output: Tensor,
    cotangents: tuple[Tensor | None, ...],
    wanted: tuple[bool, ...],
) -> list[Tensor | None]:
    """The gradients of those of `arguments` that are wanted, from the cotangents of what `forward` returned."""
    layer, parameters = _layer(how, arguments, how.store), _parameters(arguments)
    arriving = dict(zip(("dhs", "dh", "dc"), cotangents, strict=False))
    arriving = {name: None if value is None else value.contiguous() for name, value in arriving.items()}
    made: dict[str, Tensor] = {}
    for want, name, value in zip(wanted, _GRADIENTS, arguments, strict=True):
        if want and name is not None and value is not None:
            made[name] = torch.empty(_kernel_axes(value).shape if name in _KERNELS else value.shape)
    layer.backward(parameters, **_read(arguments), **arriving, **made, hs=output, stored=stored)

    def found(name: str | None, value: Tensor | None) -> Tensor | None:
        if name not in made or value is None:
            return None
        gradient = made[name]
        if name in _KERNELS:
            gradient = gradient.movedim((-1, -2), (0, 1))
        return gradient.to(value.dtype)

    return [found(name, value) for name, value in zip(_GRADIENTS, arguments, strict=True)]


def pack(how: Run, arguments: Arguments) -> native.Weights:
    """The weights among `arguments`, packed once for many runs."""
    return _layer(how, arguments, "none").pack(_parameters(arguments))


# What `native.Layer.backward` calls the gradient of each of Arguments; None: it has none.
_GRADIENTS = (
    "dx",
    "dh0",
    "dc0",
    "dkernel",
    "drecurrent_kernel",
    "dbias",
    "drecurrent_bias",
    None,
    None,
    "drates",
    None,
)
_KERNELS = ("dkernel", "drecurrent_kernel")
_BYTES = torch.empty(0, dtype=torch.uint8)


def _layer(how: Run, arguments: Arguments, store: Literal["none", "fp32", "bf16", "recompute"]) -> native.Layer:
    samples, steps, *sites, _ = arguments.x.shape
    return native.Layer(
        how.spec,
        samples=samples,
        steps=steps,
        sites=tuple(sites),
        store=store,
        held_output="hold" if how.hold else "zero",
        reverse=how.reverse,
        threads=torch.get_num_threads(),
        parallel=threads.parallel(),
    )


def _read(arguments: Arguments) -> dict[str, Tensor | None]:
    """What both passes read, as the kernel wants it."""
    scale = arguments.dropout
    if scale is not None:
        over_sites = math.prod(scale.shape[1:-1]) == 1
        scale = (scale.flatten(1) if over_sites else scale.expand_as(arguments.h)).float().contiguous()
    states = {"h0": arguments.h, "c0": arguments.c}
    return {
        "x": arguments.x.contiguous(),
        "update": None if arguments.update is None else arguments.update.contiguous(),
        "recurrent_scale": scale,
        "dt": None if arguments.elapsed is None else arguments.elapsed.float().contiguous(),
        "rates": None if arguments.decay is None else arguments.decay.detach().float().contiguous(),
        **{name: None if state is None else state.float().contiguous() for name, state in states.items()},
    }


def _states(arguments: Arguments) -> tuple[str, ...]:
    return ("h",) if arguments.c is None else ("h", "c")


def _parameters(arguments: Arguments) -> dict[str, Tensor]:
    """In the shapes of `Spec.parameter_shapes`, all of one type."""
    low = arguments.weight_ih.dtype
    given = {
        "kernel": _kernel_axes(arguments.weight_ih),
        "recurrent_kernel": _kernel_axes(arguments.weight_hh),
        "bias": arguments.bias,
        "recurrent_bias": arguments.recurrent_bias,
    }
    return {name: value.detach().to(low).contiguous() for name, value in given.items() if value is not None}


def _kernel_axes(weight: Tensor) -> Tensor:
    """(gates*F, C, *k) as (*k, C, gates*F)."""
    return weight.movedim((0, 1), (-1, -2))
