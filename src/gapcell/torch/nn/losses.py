"""Losses over what is observed, eq. (23): the right denominator, and nothing under the mask has a say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gapcell.torch.nn.module import Seen, accumulation_dtype, entries, fit
from gapcell.torch.nn.moments import ProcessGroup, processes, sum_over_processes

__all__ = [
    "MaskedHuberLoss",
    "MaskedL1Loss",
    "MaskedLoss",
    "MaskedMSELoss",
    "Reduction",
    "global_count",
    "positive",
    "select",
    "unframe",
]

Reduction = Literal["elements", "samples", "sum", "none"]


class MaskedLoss(nn.Module):
    r"""A loss over observed targets, eq. (23); use one of its subclasses.

    Shapes (N samples, T steps, \*S sites, C channels):
        input, target: a sequence (N, T, C, \*S), with `rank` also frames (N, C, \*S), or vectors (N, C) or (N,);
            channels last with `channels_last`.
        mask: True where the target is observed: steps (N, T), sites (N, T, \*S) or elements (the target's shape); of
            frames and vectors without T. None: everywhere.

    Where the mask is False neither input nor target takes part, whatever they hold (NaN, inf, 1e30): the gradient there
    is exactly 0. With nothing observed the loss is 0, and so are its gradients. Computed in float32 at least.

    Args:
        reduction: "elements": the mean over observed elements; "samples": each sample's own mean, averaged over the
            samples that have any observed element; "sum"; or "none": the target's shape, zero where not observed.
        rank: number of site axes; None takes sequences and vectors.
        channels_last: whether channels are the last axis.
    """

    def __init__(
        self, reduction: Reduction = "elements", *, rank: int | None = None, channels_last: bool = False
    ) -> None:
        super().__init__()
        if reduction not in get_args(Reduction):
            cure = '; torch\'s "mean" is "elements" here' if reduction == "mean" else ""
            expected = ", ".join(get_args(Reduction))
            raise ValueError(f"`reduction` is {reduction!r}, expected one of {expected}{cure}")
        self.reduction, self.rank, self.channels_last = reduction, rank, channels_last

    def forward(
        self,
        input: Tensor,  # noqa: A002 # torch.nn's name
        target: Tensor,
        mask: Tensor | None = None,
        *,
        count: Tensor | float | None = None,
    ) -> Tensor:
        """The loss; shapes are in the class docstring.

        Args:
            input: what is predicted.
            target: what was to be predicted.
            mask: where the target is observed; None: everywhere.
            count: the denominator in place of this batch's own, e.g. a `global_count`.

        Returns:
            a scalar, or the target's shape with reduction "none".
        """
        self._check_alike(target, input=input)
        observed = self._observed(target, mask)
        return self._reduce(self._elements(select(observed, input), select(observed, target)), observed, count)

    def count(self, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """What a batch adds to the denominator: its observed elements, or samples that have any.

        Args:
            target: as in `forward`.
            mask: likewise.

        Returns:
            a scalar int64 tensor, to be summed by `global_count`.
        """
        if self.reduction not in ("elements", "samples"):
            raise ValueError(f"`reduction` is {self.reduction!r}, which has no denominator to count")
        observed = self._observed(target, mask)
        if self.reduction == "elements":
            return _count(observed, target, tuple(range(target.ndim)))
        return (_count(observed, target, tuple(range(1, target.ndim))) > 0).sum()

    def extra_repr(self) -> str:
        """The reduction."""
        return f"reduction={self.reduction!r}"

    def _elements(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The loss of each element."""
        raise NotImplementedError

    def _observed(self, target: Tensor, mask: Tensor | None) -> Tensor | None:
        """The mask as bool, broadcasting to the target."""
        if mask is None:
            return None
        # `fit` reads shapes only, and class numbers are no floating point.
        like = target.new_empty((), dtype=torch.float32)
        if target.ndim < 2:
            seen = fit(like.expand(*target.shape, 1), mask, rank=0, channels_last=True)
            observed = unframe(seen)
            return None if observed is None else observed.squeeze(-1)
        rank = 0 if target.ndim == 2 else self.rank
        return unframe(fit(like.expand(target.shape), mask, rank=rank, channels_last=self.channels_last))

    def _check_alike(self, target: Tensor, **others: Tensor) -> None:
        for name, value in others.items():
            if tuple(value.shape) != tuple(target.shape):
                raise ValueError(
                    f"`{name}` has shape {tuple(value.shape)}, but `target` {tuple(target.shape)}: expected the same"
                )

    def _reduce(self, losses: Tensor, observed: Tensor | None, count: Tensor | float | None) -> Tensor:
        if observed is not None:
            losses = torch.where(observed, losses, 0)
        if self.reduction in ("sum", "none"):
            if count is not None:
                raise ValueError(f"`count` beside reduction {self.reduction!r}; it replaces the denominator of a mean")
            return losses.sum() if self.reduction == "sum" else losses
        if self.reduction == "elements":
            total, own = losses.sum(), _count(observed, losses, tuple(range(losses.ndim)))
        else:
            rest = tuple(range(1, losses.ndim))
            counts = _count(observed, losses, rest)
            sums = losses.sum(rest) if rest else losses
            total, own = (sums / counts.clamp(min=1)).sum(), (counts > 0).sum()
        divisor = own if count is None else torch.as_tensor(count, device=losses.device)
        return total / torch.where(divisor > 0, divisor, 1).to(losses.dtype)


def unframe(seen: Seen) -> Tensor | None:
    """The mask that selects from the target itself: of frames without the step axis."""
    observed = seen.observed
    return observed if observed is None or seen.steps else observed.squeeze(1)


def select(observed: Tensor | None, x: Tensor, fill: float = 0.0) -> Tensor:
    """Eq. (2), in a type fit for sums."""
    if observed is not None:
        x = torch.where(observed, x, fill)
    return x.to(accumulation_dtype(x)) if x.is_floating_point() else x


def _count(observed: Tensor | None, like: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Observed elements along the axes, int64."""
    if observed is None:
        kept = [size for axis, size in enumerate(like.shape) if axis not in axes]
        number = entries(like.shape, axes)
        return torch.full(kept, number, dtype=torch.int64, device=like.device)
    observed = observed.expand(like.shape)
    return observed.sum(axes) if axes else observed.to(torch.int64)


def global_count(*counts: Tensor | int, process_group: ProcessGroup = None) -> Tensor:
    """The denominator of a batch that is cut into micro-batches, over several processes, or both.

    Each micro-batch's loss divided by it, and the gradients summed over micro-batches and averaged over processes as
    DistributedDataParallel does, give the gradient of the whole batch on one device::

        counts = [loss.count(target, mask) for _, target, mask in micro_batches]
        total = global_count(*counts)
        for x, target, mask in micro_batches:
            loss(model(x), target, mask, count=total).backward()

    Without it micro-batches or processes with few observations weigh as much as those with many.

    Args:
        counts: `MaskedLoss.count` of each micro-batch of this process.
        process_group: the processes that share the batch; None: all. Each of them has to call.

    Returns:
        a scalar: the sum over micro-batches and processes, divided by the number of processes.
    """
    if not counts:
        raise ValueError("no counts came, expected loss.count(target, mask) of each micro-batch")
    if len(counts) == 1 and isinstance(counts[0], Iterable) and not isinstance(counts[0], Tensor):
        raise ValueError(f"`counts` is one {type(counts[0]).__name__}, expected them one by one: global_count(*counts)")
    total = torch.stack([torch.as_tensor(count).to(torch.int64).sum() for count in counts]).sum()
    several = processes(process_group)
    if several == 1:
        return total
    return sum_over_processes(total, process_group) / several


class MaskedMSELoss(MaskedLoss):
    """nn.MSELoss, the squared error; arguments and shapes are those of MaskedLoss."""

    def _elements(self, prediction: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(prediction, target, reduction="none")


class MaskedL1Loss(MaskedLoss):
    """nn.L1Loss, the absolute error; arguments and shapes are those of MaskedLoss."""

    def _elements(self, prediction: Tensor, target: Tensor) -> Tensor:
        return F.l1_loss(prediction, target, reduction="none")


class MaskedHuberLoss(MaskedLoss):
    """nn.HuberLoss, squared near zero and absolute beyond `delta`; shapes and the other arguments are MaskedLoss's.

    Args:
        reduction: see MaskedLoss.
        delta: where the absolute error takes over.
        rank: see MaskedLoss.
        channels_last: see MaskedLoss.
    """

    def __init__(
        self,
        reduction: Reduction = "elements",
        delta: float = 1.0,
        *,
        rank: int | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__(reduction, rank=rank, channels_last=channels_last)
        self.delta = positive("delta", delta)

    def _elements(self, prediction: Tensor, target: Tensor) -> Tensor:
        return F.huber_loss(prediction, target, reduction="none", delta=self.delta)


def positive(name: str, value: float) -> float:
    """The value, refused if it is not."""
    if not value > 0:
        raise ValueError(f"`{name}` is {value}, expected a positive number")
    return value
