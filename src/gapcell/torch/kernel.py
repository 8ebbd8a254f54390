"""The recurrence on the compiled CPU kernel, as differentiable PyTorch.

The kernel reads x, masks and states where they lie and visits observed sites only, so nothing is sorted or packed.
Weights are packed for every call: no version counter shows every change of a tensor in place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from gapcell import masks, native
from gapcell.spec import Spec
from gapcell.torch import plain
from gapcell.torch.buffers import Buffer, pool
from gapcell.torch.plan import Inputs, Plan

__all__ = ["Arguments", "Run", "run", "serves"]


class Arguments(NamedTuple):
    """What one layer and direction reads.

    Attributes:
        x: (N, T, *S, C) x~ of eq. (2), float32 or bfloat16.
        h: (N, *S', F) initial state.
        c: likewise; None for the GRU.
        weight_ih: (gates*F, C, *k), of x's type.
        weight_hh: (gates*F, F, *k), of x's type.
        bias: (gates*F,) or None.
        recurrent_bias: (F,) bhn of eq. (8), or None.
        dropout: scale on h_(t-1) inside eq. (6), (N, *S', F) or with site axes of size 1; None: none.
        update: (N, T) or (N, T, *S') bool, u of eq. (5); None: all True.
    """

    x: Tensor
    h: Tensor
    c: Tensor | None
    weight_ih: Tensor
    weight_hh: Tensor
    bias: Tensor | None
    recurrent_bias: Tensor | None
    dropout: Tensor | None
    update: Tensor | None


@dataclass(frozen=True)
class Run:
    """How to run: the layer, what its output holds where the state does not step, and what backward reads.

    Attributes:
        spec: of one layer and direction.
        hold: whether a held place gives h_t, else 0.
        store: gates in "fp32" or "bf16", or "recompute".
    """

    spec: Spec
    hold: bool
    store: Literal["fp32", "bf16", "recompute"] = "fp32"


def serves(x: Tensor, low: torch.dtype, state: tuple[Tensor, ...]) -> bool:
    """Whether the kernel runs here and on such tensors; x is concrete."""
    return (
        x.device.type == "cpu"
        and low in (torch.float32, torch.bfloat16)
        and all(part.dtype != torch.float64 for part in state)
        and native.active().name != "off"
    )


def run(how: Run, arguments: Arguments) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run the layer.

    Returns:
        output (N, T, *S', F), float32, and the final state, each (N, *S', F).
    """
    output, *final = _Recurrence.apply(how, torch.is_grad_enabled(), *arguments)
    return output, tuple(final)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, how: Run, recording: bool, *given: Tensor | None) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        arguments = Arguments._make(given)
        training = recording and any(ctx.needs_input_grad)
        layer = _layer(how, arguments, training)
        read, parameters = _read(how, arguments), _parameters(arguments)
        output = torch.empty((*arguments.x.shape[:2], *arguments.h.shape[1:]))
        final = {name: torch.empty(arguments.h.shape) for name in _states(arguments)}
        stored = _stored(layer, read) if training else None
        layer.forward(parameters, **read, **final, hs=output, stored=None if stored is None else stored.tensor)
        if training:
            ctx.how, ctx.stored = how, stored
            ctx.save_for_backward(*given, output)
        return (output, *final.values())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        *given, output = ctx.saved_tensors
        arguments, wanted = Arguments._make(given), ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():
            # create_graph: what the kernel computes would come back as constants.
            return (None, None, *_differentiable_backward(ctx.how, arguments, gradients, wanted))
        return (None, None, *_backward(ctx.how, arguments, ctx.stored, output, gradients, wanted))


def _backward(
    how: Run,
    arguments: Arguments,
    stored: Buffer,
    output: Tensor,
    gradients: tuple[Tensor | None, ...],
    wanted: tuple[bool, ...],
) -> list[Tensor | None]:
    """The gradients of `arguments` from those of (output, final h and c)."""
    layer, parameters = _layer(how, arguments, True), _parameters(arguments)
    arriving = dict(zip(("dhs", "dh", "dc"), gradients, strict=False))
    arriving = {name: None if value is None else value.contiguous() for name, value in arriving.items()}
    want = dict(zip(Arguments._fields, wanted, strict=True))
    made: dict[str, Tensor] = {}
    for name, gradient, like in (
        ("x", "dx", arguments.x),
        ("h", "dh0", arguments.h),
        ("c", "dc0", arguments.c),
        ("weight_ih", "dkernel", parameters["kernel"]),
        ("weight_hh", "drecurrent_kernel", parameters["recurrent_kernel"]),
        ("bias", "dbias", arguments.bias),
        ("recurrent_bias", "drecurrent_bias", arguments.recurrent_bias),
    ):
        if want[name] and like is not None:
            made[gradient] = torch.empty(like.shape)
    layer.backward(parameters, **_read(how, arguments), **arriving, **made, hs=output, stored=stored.tensor)

    def found(name: str, gradient: str) -> Tensor | None:
        if gradient not in made:
            return None
        value = made[gradient]
        if name.startswith("weight"):
            value = value.movedim((-1, -2), (0, 1))
        return value.to(getattr(arguments, name).dtype)

    names = ("dx", "dh0", "dc0", "dkernel", "drecurrent_kernel", "dbias", "drecurrent_bias")
    return [*(found(name, gradient) for name, gradient in zip(Arguments._fields, names, strict=False)), None, None]


def _layer(how: Run, arguments: Arguments, training: bool) -> native.Layer:
    samples, steps, *sites, _ = arguments.x.shape
    return native.Layer(
        how.spec,
        samples=samples,
        steps=steps,
        sites=tuple(sites),
        store=how.store if training else "none",
        held_output="hold" if how.hold else "zero",
        threads=torch.get_num_threads(),
    )


def _read(how: Run, arguments: Arguments) -> dict[str, Tensor | None]:
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
        **{name: None if state is None else state.float().contiguous() for name, state in states.items()},
    }


def _states(arguments: Arguments) -> tuple[str, ...]:
    return ("h",) if arguments.c is None else ("h", "c")


def _parameters(arguments: Arguments) -> dict[str, Tensor]:
    """In the shapes of `Spec.parameter_shapes`, all of one type."""
    low = arguments.weight_ih.dtype
    given = {
        "kernel": arguments.weight_ih.movedim((0, 1), (-1, -2)),
        "recurrent_kernel": arguments.weight_hh.movedim((0, 1), (-1, -2)),
        "bias": arguments.bias,
        "recurrent_bias": arguments.recurrent_bias,
    }
    return {name: value.detach().to(low).contiguous() for name, value in given.items() if value is not None}


def _stored(layer: native.Layer, read: dict[str, Tensor | None]) -> Buffer:
    return pool.borrow((layer.stored_bytes(read["update"]),), _BYTES)


_BYTES = torch.empty(0, dtype=torch.uint8)


def _differentiable_backward(
    how: Run, arguments: Arguments, gradients: tuple[Tensor | None, ...], wanted: tuple[bool, ...]
) -> list[Tensor | None]:
    """The gradients as a differentiable function of arguments and cotangents, through the plain form."""
    # Aliases: the gradient of one argument must not pass through another that was computed from it.
    aliases = [None if value is None else value.view_as(value) for value in arguments]
    outputs = _plain(how, Arguments._make(aliases))
    reached = [(out, gradient) for out, gradient in zip(outputs, gradients, strict=True) if gradient is not None]
    sources = [alias for alias, want in zip(aliases, wanted, strict=True) if want and alias is not None]
    found = iter(
        torch.autograd.grad(
            [out for out, _ in reached],
            sources,
            [gradient for _, gradient in reached],
            create_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
    )
    return [next(found) if want else None for want in wanted]


def _plain(how: Run, arguments: Arguments) -> tuple[Tensor, ...]:
    samples, steps, *sites, _ = arguments.x.shape
    plan = Plan.of(how.spec, tuple(sites), (samples,) * steps)
    update = arguments.update
    if update is not None:
        update = masks.expand(update, arguments.x.ndim).transpose(0, 1).flatten(0, 1)
    x = plan.pad_input(arguments.x.transpose(0, 1).flatten(0, 1))
    hs, *final = plain.run(plan, Inputs._make(arguments)._replace(x=x, update=update))
    if update is not None and not how.hold:
        hs = torch.where(update, hs, 0)
    return (hs.unflatten(0, (steps, samples)).transpose(0, 1), *final)
