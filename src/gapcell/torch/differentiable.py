"""What the CPU kernel computes, as differentiable PyTorch operations, and derivatives of derivatives.

For graphs that ask for the kernel where it is not there, and for backward passes that are differentiated themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from gapcell import masks
from gapcell.torch import plain
from gapcell.torch.arguments import Arguments, Run
from gapcell.torch.plan import Inputs, Plan

__all__ = ["gradients", "run"]

T = TypeVar("T", Arguments, Inputs)


def run(how: Run, arguments: Arguments) -> tuple[Tensor, ...]:
    """Output (N, T, *S', F) and the final state, each (N, *S', F)."""
    samples, steps, *sites, _ = arguments.x.shape
    plan = Plan.of(how.spec, tuple(sites), (samples,) * steps)
    x, update, elapsed = arguments.x, arguments.update, arguments.elapsed
    if update is not None:
        update = masks.expand(update, x.ndim)
    x, update, elapsed = (_in_order(array, how.reverse) for array in (x, update, elapsed))
    inputs = Inputs(*arguments)._replace(x=plan.pad_input(x), update=update, elapsed=elapsed)
    hs, *final = plain.run(plan, inputs)
    if update is not None and not how.hold:
        hs = torch.where(update, hs, 0)
    output = hs.unflatten(0, (steps, samples)).transpose(0, 1)
    return (output.flip(1) if how.reverse else output, *final)


def _in_order(array: Tensor | None, reverse: bool) -> Any:
    """(N, T, ...) in the order of computation."""
    if array is None:
        return None
    return (array.flip(1) if reverse else array).transpose(0, 1).flatten(0, 1)


def gradients(
    function: Callable[[T], tuple[Tensor, ...]],
    arguments: T,
    cotangents: tuple[Tensor | None, ...],
    wanted: tuple[bool, ...],
) -> list[Tensor | None]:
    """The gradients of those arguments that are wanted; with grad mode on they can be differentiated again.

    Args:
        function: made of differentiable operations.
        arguments: a NamedTuple of tensors or None.
        cotangents: of what the function returns; None: zeros.
        wanted: for each of `arguments`.
    """
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases: the gradient of one argument must not pass through another that was computed from it.
        aliases = [None if value is None else value.view_as(value) for value in arguments]
        outputs = function(type(arguments)(*aliases))
    reached = [(out, cotangent) for out, cotangent in zip(outputs, cotangents, strict=True) if cotangent is not None]
    sources = [alias for alias, want in zip(aliases, wanted, strict=True) if want and alias is not None]
    found = iter(
        torch.autograd.grad(
            [out for out, _ in reached],
            sources,
            [cotangent for _, cotangent in reached],
            create_graph=differentiable,
            allow_unused=True,
            materialize_grads=True,
        )
    )
    return [next(found) if want and value is not None else None for want, value in zip(wanted, aliases, strict=True)]
