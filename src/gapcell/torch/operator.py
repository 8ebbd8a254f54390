"""The CPU kernel as operators of PyTorch's own kind, for graphs: torch.compile and torch.export keep them as one node.

A graph that was traced with them needs gapcell to run. Whether it has them is decided when it is traced, so
`native.using` belongs around the tracing.
"""

from __future__ import annotations

import json
import math
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from gapcell import native
from gapcell.spec import Spec
from gapcell.torch import differentiable, kernel
from gapcell.torch.arguments import Arguments, Run

__all__ = ["run", "serves"]


def serves(x: Tensor, low: torch.dtype, state: tuple[Tensor, ...]) -> bool:
    """Whether the operators run on such tensors here; x is being traced."""
    return (
        torch.compiler.is_compiling()
        and kernel.takes(x, low, state)
        and getattr(forward_ad, "_current_level", -1) < 0
        and _wanted()
    )


def _constant(function: Any) -> Any:
    """`torch.compiler.assume_constant_result`, without the second that it takes to import torch._dynamo."""
    function._dynamo_marked_constant = True
    return function


@_constant
def _wanted() -> bool:
    """ONNX has no such operator, and function transforms look inside."""
    transformed = torch._C._are_functorch_transforms_active()
    return native.active().name != "off" and not torch.onnx.is_in_onnx_export() and not transformed


def run(how: Run, arguments: Arguments) -> tuple[Tensor, tuple[Tensor, ...]]:
    """As `kernel.run`; `how.packed` is not looked at."""
    # An exported program is mostly there to infer: it keeps nothing, and gradients through it take the dense form.
    recording = torch.is_grad_enabled() and not torch.compiler.is_exporting()
    training = recording and any(value is not None and value.requires_grad for value in arguments)
    store = how.store if training else "none"
    output, h, c, _ = _recurrence(*arguments, _text(how.spec), how.hold, how.reverse, store)
    return output, (h,) if arguments.c is None else (h, c)


@_constant
def _text(spec: Spec) -> str:
    return json.dumps(spec.to_dict())


@cache  # a graph says it again in every run
def _spec(text: str) -> Spec:
    return Spec.from_dict(json.loads(text))


def _how(spec: str, hold: bool, reverse: bool, store: Any) -> Run:
    return Run(_spec(spec), hold, "fp32" if store == "none" else store, reverse)


@torch.library.custom_op("gapcell::recurrence", mutates_args=())
def _recurrence(
    x: Tensor,
    h: Tensor,
    c: Tensor | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None,
    recurrent_bias: Tensor | None,
    dropout: Tensor | None,
    update: Tensor | None,
    decay: Tensor | None,
    elapsed: Tensor | None,
    spec: str,
    hold: bool,
    reverse: bool,
    store: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output, final h, final c (empty for the GRU), and what backward reads (empty with store "none")."""
    arguments = Arguments(x, h, c, weight_ih, weight_hh, bias, recurrent_bias, dropout, update, decay, elapsed)
    how = _how(spec, hold, reverse, store)
    stored = x.new_empty(_stored_bytes(how.spec, x, h, store), dtype=torch.uint8)
    if kernel.serves(x, x.dtype, (h,)):
        output, *final = kernel.forward(how, arguments, stored if store != "none" else None)
    elif store == "none":
        output, *final = (part.float().contiguous() for part in differentiable.run(how, arguments))
    else:
        raise RuntimeError(
            "this graph was compiled to train on gapcell's CPU kernel, which is now switched off; compile it again "
            "(torch.compiler.reset())"
        )
    return output, final[0], final[1] if len(final) > 1 else output.new_empty(0), stored


@_recurrence.register_fake
def _(x, h, c, weight_ih, weight_hh, bias, recurrent_bias, dropout, update, decay, elapsed, spec, hold, reverse, store):
    output = x.new_empty((x.shape[0], x.shape[1], *h.shape[1:]), dtype=torch.float32)
    final = x.new_empty(h.shape, dtype=torch.float32)
    last_c = torch.empty_like(final) if c is not None else final.new_empty(0)
    return output, final, last_c, x.new_empty(_stored_bytes(_spec(spec), x, h, store), dtype=torch.uint8)


def _stored_bytes(spec: Spec, x: Tensor, h: Tensor, store: Any) -> Any:
    """For every step, computed or not: a graph's sizes do not depend on values."""
    if store == "none":
        return 0
    return x.shape[0] * x.shape[1] * math.prod(h.shape[1:-1]) * native.stored_bytes_a_site(spec, store)


@torch.library.custom_op("gapcell::recurrence_backward", mutates_args=())
def _recurrence_backward(
    x: Tensor,
    h: Tensor,
    c: Tensor | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None,
    recurrent_bias: Tensor | None,
    dropout: Tensor | None,
    update: Tensor | None,
    decay: Tensor | None,
    elapsed: Tensor | None,
    output: Tensor,
    stored: Tensor,
    doutput: Tensor | None,
    dh: Tensor | None,
    dc: Tensor | None,
    spec: str,
    hold: bool,
    reverse: bool,
    store: str,
    wanted: list[bool],
) -> list[Tensor]:
    """The gradients of those arguments that can have one; empty where not wanted."""
    arguments = Arguments(x, h, c, weight_ih, weight_hh, bias, recurrent_bias, dropout, update, decay, elapsed)
    how = _how(spec, hold, reverse, store)
    found = kernel.backward(how, arguments, stored, output, (doutput, dh, dc), tuple(wanted))
    return [x.new_empty(0) if gradient is None else gradient.contiguous() for gradient in found]


@_recurrence_backward.register_fake
def _(*inputs):
    arguments, wanted = inputs[: len(Arguments._fields)], inputs[-1]
    return [
        value.new_empty(value.shape) if want and value is not None else inputs[0].new_empty(0)
        for value, want in zip(arguments, wanted, strict=True)
    ]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.spec, ctx.hold, ctx.reverse, ctx.store = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, output[0], output[3])


def _differentiate(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    *given, output, stored = ctx.saved_tensors
    arguments, cotangents = Arguments._make(given), cotangents[:3]
    wanted = ctx.needs_input_grad[: len(given)]
    if arguments.c is None:
        cotangents = cotangents[:2]
    if ctx.store == "none" or torch.is_grad_enabled():
        how = _how(ctx.spec, ctx.hold, ctx.reverse, ctx.store)
        found = differentiable.gradients(partial(differentiable.run, how), arguments, cotangents, wanted)
    else:
        doutput, dh, dc = (*cotangents, None)[:3]
        how = (ctx.spec, ctx.hold, ctx.reverse, ctx.store)
        made = _recurrence_backward(*given, output, stored, doutput, dh, dc, *how, list(wanted))
        found = [gradient if want else None for gradient, want in zip(made, wanted, strict=True)]
    return (*found, None, None, None, None)


torch.library.register_autograd("gapcell::recurrence", _differentiate, setup_context=_keep)
