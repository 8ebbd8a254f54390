"""Mean and variance over what is observed, eq. (21), in one process or over all of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from gapcell.torch.nn.module import entries

__all__ = ["Moments", "ProcessGroup", "moments", "processes", "sum_over_processes"]

ProcessGroup = Any  # torch.distributed.ProcessGroup; builds of PyTorch without torch.distributed have no such name


class Moments(NamedTuple):
    """Statistics with the reduced axes kept as 1; mean and variance are 0 where the count is.

    Attributes:
        mean: over the observed entries.
        variance: sum of squared deviations over the count (not count - 1).
        count: observed entries; it may have 1 where mean has the channels.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor


def moments(
    x: Tensor, observed: Tensor | None, axes: tuple[int, ...], *, synchronize: bool = False, group: ProcessGroup = None
) -> Moments:
    """The moments of x over some axes, in two passes, eq. (21).

    Args:
        x: zero where not observed, of a type fit for sums.
        observed: bool, broadcasting to x; None: everything.
        axes: to reduce.
        synchronize: take sums and counts over all processes of the group.
        group: of processes; None: all.
    """
    count = _count(x, observed, axes)
    total = x.sum(axes, keepdim=True)
    if synchronize:
        both = sum_over_processes(torch.cat([total.flatten(), count.expand_as(total).flatten()]), group)
        total, count = (part.view_as(total) for part in both.chunk(2))
    mean = total / count.clamp(min=1)
    centred = x - mean
    if observed is not None:
        centred = torch.where(observed, centred, 0)
    squares = centred.square().sum(axes, keepdim=True)
    if synchronize:
        squares = sum_over_processes(squares, group)
    return Moments(mean, squares / count.clamp(min=1), count)


def _count(x: Tensor, observed: Tensor | None, axes: tuple[int, ...]) -> Tensor:
    if observed is None:
        return x.new_full((1,) * x.ndim, entries(x.shape, axes))
    alike = entries(x.shape, [axis for axis in axes if observed.shape[axis] == 1])
    return (observed.sum(axes, keepdim=True) * alike).to(x.dtype)


# Over processes -------------------------------------------------------------------------------------------------------


def processes(group: ProcessGroup = None) -> int:
    """How many processes train together; 1 without torch.distributed."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(x: Tensor, group: ProcessGroup = None) -> Tensor:
    """The sum of x over the processes of a group; its gradient is the sum of their gradients."""
    return _Sum.apply(x, group)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Sum.apply(gradients[0], ctx.group), None
