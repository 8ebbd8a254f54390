"""Masked normalisation, eq. (21): statistics over observed entries only; the mask goes through unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase  # not nn.BatchNorm, which convert_sync_batchnorm would replace

from gapcell.torch.nn.module import Covers, MaskedModule, Seen, accumulation_dtype, fit
from gapcell.torch.nn.moments import Moments, ProcessGroup, moments, processes, sum_over_processes

__all__ = [
    "MaskedBatchNorm",
    "MaskedBatchNorm1d",
    "MaskedBatchNorm2d",
    "MaskedBatchNorm3d",
    "MaskedGroupNorm",
    "MaskedInstanceNorm",
    "MaskedInstanceNorm1d",
    "MaskedInstanceNorm2d",
    "MaskedInstanceNorm3d",
    "MaskedLayerNorm",
]


class _Normalization(MaskedModule):
    """What every norm shares: it reads a batch, scales what is observed, and leaves zeros elsewhere."""

    eps: float
    weight: Any  # Parameter or None, as the class beside it says
    bias: Any

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Normalise x; shapes are in the class docstring.

        Args:
            x: a sequence or frames.
            mask: what is observed; None: everything.

        Returns:
            x normalised, zero where not observed, and the mask as bool.
        """
        seen = fit(x, mask, rank=self.rank, channels_last=self.channels_last)
        self._check(seen)
        values = seen.select().to(accumulation_dtype(x))
        y = self._normalize(seen, values).to(x.dtype)
        if seen.observed is not None:
            y = torch.where(seen.observed, y, 0)
        return seen.leave(y, seen.mask)

    def mask_in_words(self, covers: Covers) -> str:
        """For `MaskedSequential.summary`."""
        return "unchanged"

    def _check(self, seen: Seen) -> None:
        raise NotImplementedError

    def _normalize(self, seen: Seen, values: Tensor) -> Tensor:
        raise NotImplementedError

    def _check_channels(self, seen: Seen, channels: int, name: str) -> None:
        if seen.x.shape[seen.channel_axis] != channels:
            shape = tuple(seen.x.shape if seen.steps else seen.x.squeeze(1).shape)
            raise ValueError(
                f"`x` has shape {shape} with {seen.x.shape[seen.channel_axis]} channels, expected {name} = {channels}; "
                f"channels_last is {bool(self.channels_last)}"
            )

    def _standardize(self, values: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return (values - mean) * torch.rsqrt(variance + self.eps)

    def _scale_channels(self, y: Tensor, channel_axis: int) -> Tensor:
        if self.weight is not None:
            y = y * _along(self.weight, y, channel_axis)
        return y if self.bias is None else y + _along(self.bias, y, channel_axis)


def _along(parameter: Tensor, y: Tensor, axis: int) -> Tensor:
    """(C,) of y's type, broadcasting along y's channel axis."""
    return parameter.to(y.dtype).view(-1, *(1,) * (y.ndim - 1 - axis))


# Statistics of a batch, kept for later --------------------------------------------------------------------------------


class _RunningNorm(_Normalization, _NormBase):
    """A norm per channel that may keep running statistics, under nn.BatchNorm's names."""

    num_features: int
    momentum: float | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    synchronize: bool
    process_group: ProcessGroup

    def _check(self, seen: Seen) -> None:
        self._check_channels(seen, self.num_features, "num_features")

    def _normalize(self, seen: Seen, values: Tensor) -> Tensor:
        axis, mean, variance = seen.channel_axis, self.running_mean, self.running_var
        if self.training or mean is None or variance is None:
            found = self._statistics(seen, values)
            mean, variance = found.mean, found.variance
            if self.training and self.running_mean is not None:
                with torch.no_grad():
                    self._track(*self._of_channels(found, axis))
        else:
            mean, variance = _along(mean, values, axis), _along(variance, values, axis)
        return self._scale_channels(self._standardize(values, mean, variance), axis)

    def _statistics(self, seen: Seen, values: Tensor) -> Moments:
        raise NotImplementedError

    def _of_channels(self, found: Moments, axis: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What `_track` is given: means and unbiased variances (C,), and where each of them is known."""
        raise NotImplementedError

    def _track(self, mean: Tensor, variance: Tensor, mean_known: Tensor, variance_known: Tensor) -> None:
        running_mean, running_var, tracked = self.running_mean, self.running_var, self.num_batches_tracked
        assert running_mean is not None  # noqa: S101 # `_normalize` asked
        assert running_var is not None  # noqa: S101 # likewise
        momentum: float | Tensor = 0.0 if self.momentum is None else self.momentum
        if tracked is not None:
            # A batch without any observation is none: it must not weigh in a cumulative average.
            tracked += mean_known.any().to(tracked.dtype)
            if self.momentum is None:
                momentum = 1 / tracked.clamp(min=1).to(mean.dtype)
        for running, new, known in ((running_mean, mean, mean_known), (running_var, variance, variance_known)):
            updated = (1 - momentum) * running + momentum * new
            running.copy_(torch.where(known, updated.to(running.dtype), running))

    @property
    def _shared(self) -> bool:
        return self.training and self.synchronize and processes(self.process_group) > 1


class MaskedBatchNorm(_RunningNorm):
    r"""nn.BatchNorm over what is observed of all samples, steps and sites; use one of its subclasses.

    Shapes (N samples, T steps, \*S sites, C channels):
        x: a sequence (N, T, C, \*S) or frames (N, C, \*S); channels last with `channels_last`.
        mask: True where observed: steps (N, T), sites (N, T, \*S) or elements (x's shape); of frames without T.
        returns: x normalised, of the same shape and type, zero where not observed; the mask unchanged.

    Eq. (21): mean and variance in training over the observed entries, in float32 at least; running statistics with
    the variance times n/(n-1), left alone where nothing (the variance: fewer than two entries) is observed. Parameters
    and buffers are nn.BatchNorm's; state_dicts load from it.

    In DistributedDataParallel training sums and counts are taken over all processes, as nn.SyncBatchNorm does, so that
    processes which observe unequally much equal one process with the whole batch. DistributedDataParallel averages
    gradients: divide the loss by a `global_count`. `nn.SyncBatchNorm.convert_sync_batchnorm` leaves this module alone.

    Args:
        num_features: C.
        eps: added to the variance.
        momentum: weight of a new batch in the running statistics; None: the plain average of all batches.
        affine: whether there are a weight and a bias, (C,).
        track_running_stats: whether running statistics are kept, and used in eval mode.
        synchronize: whether statistics are taken over all processes where there are several, in training.
        process_group: the processes; None: all.
        channels_last: whether channels are the last axis.
        device: of the parameters.
        dtype: of the parameters.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        synchronize: bool = True,
        process_group: ProcessGroup = None,
        channels_last: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        self.synchronize, self.process_group, self.channels_last = synchronize, process_group, channels_last

    def _statistics(self, seen: Seen, values: Tensor) -> Moments:
        axes = tuple(axis for axis in range(values.ndim) if axis != seen.channel_axis)
        return moments(values, seen.observed, axes, synchronize=self._shared, group=self.process_group)

    def _of_channels(self, found: Moments, axis: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, variance, count = found.mean.flatten(), found.variance.flatten(), found.count.flatten()
        return mean, variance * count / (count - 1).clamp(min=1), count >= 1, count >= 2


class MaskedInstanceNorm(_RunningNorm):
    r"""nn.InstanceNorm over the observed sites of each channel of each step; use one of its subclasses.

    Shapes (N samples, T steps, \*S sites, C channels):
        x: a sequence (N, T, C, \*S) or frames (N, C, \*S); channels last with `channels_last`.
        mask: True where observed: steps (N, T), sites (N, T, \*S) or elements (x's shape); of frames without T.
        returns: x normalised, of the same shape and type, zero where not observed; the mask unchanged.

    Eq. (21) within one step of one sample: neither another step nor another sample matters. Running statistics, if
    asked for, average over the steps and samples that have any (variance: two) observed sites, over all processes.

    Args:
        num_features: C.
        eps: added to the variance.
        momentum: weight of a new batch in the running statistics.
        affine: whether there are a weight and a bias, (C,).
        track_running_stats: whether running statistics are kept, and used in eval mode.
        synchronize: whether running statistics are taken over all processes where there are several.
        process_group: the processes; None: all.
        channels_last: whether channels are the last axis.
        device: of the parameters.
        dtype: of the parameters.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        synchronize: bool = True,
        process_group: ProcessGroup = None,
        channels_last: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        self.synchronize, self.process_group, self.channels_last = synchronize, process_group, channels_last

    def _statistics(self, seen: Seen, values: Tensor) -> Moments:
        return moments(values, seen.observed, seen.site_axes)

    def _of_channels(self, found: Moments, axis: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        count = found.count.expand_as(found.mean)
        unbiased = found.variance * count / (count - 1).clamp(min=1)
        sums = [torch.where(count >= least, value, 0) for value, least in ((found.mean, 1), (unbiased, 2))]
        rows = [*sums, (count >= 1).to(count.dtype), (count >= 2).to(count.dtype)]
        totals = torch.stack([row.movedim(axis, 0).flatten(1).sum(1) for row in rows])
        if self._shared:
            totals = sum_over_processes(totals, self.process_group)
        mean, variance, means, variances = totals
        return mean / means.clamp(min=1), variance / variances.clamp(min=1), means >= 1, variances >= 1


# Within one step of one sample ----------------------------------------------------------------------------------------


class MaskedGroupNorm(_Normalization, nn.GroupNorm):  # pyrefly: ignore[inconsistent-inheritance] # forward with a mask
    r"""nn.GroupNorm over what is observed of a group of channels and all sites, within one step of one sample.

    Shapes (N samples, T steps, \*S sites, C channels):
        x: a sequence (N, T, C, \*S), with `rank` also frames (N, C, \*S); channels last with `channels_last`.
        mask: True where observed: steps (N, T), sites (N, T, \*S) or elements (x's shape); of frames without T.
        returns: x normalised, of the same shape and type, zero where not observed; the mask unchanged.

    Args:
        num_groups: into which the channels are cut.
        num_channels: C.
        eps: added to the variance of eq. (21).
        affine: whether there are a weight and a bias, (C,).
        rank: number of site axes; None takes sequences only.
        channels_last: whether channels are the last axis.
        device: of the parameters.
        dtype: of the parameters.
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        rank: int | None = None,
        channels_last: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_groups, num_channels, eps, affine, device=device, dtype=dtype)
        self.rank, self.channels_last = rank, channels_last

    def _check(self, seen: Seen) -> None:
        self._check_channels(seen, self.num_channels, "num_channels")

    def _normalize(self, seen: Seen, values: Tensor) -> Tensor:
        axis, observed = seen.channel_axis, seen.observed
        grouped = values.unflatten(axis, (self.num_groups, -1))
        if observed is not None:
            by_channel = observed.shape[axis] == values.shape[axis]
            observed = observed.unflatten(axis, (self.num_groups if by_channel else 1, -1))
        axes = tuple(each for each in range(2, grouped.ndim) if each != axis)
        mean, variance, _ = moments(grouped, observed, axes)
        y = self._standardize(grouped, mean, variance).flatten(axis, axis + 1)
        return self._scale_channels(y, axis)


class MaskedLayerNorm(_Normalization, nn.LayerNorm):  # pyrefly: ignore[inconsistent-inheritance] # forward with a mask
    r"""nn.LayerNorm over what is observed of the last axes, within one step of one sample.

    Shapes (N samples, T steps, \*S sites, C channels):
        x: a sequence (N, T, C, \*S), with `rank` also frames (N, C, \*S); channels last with `channels_last`.
        mask: True where observed: steps (N, T), sites (N, T, \*S) or elements (x's shape); of frames without T.
        returns: x normalised, of the same shape and type, zero where not observed; the mask unchanged.

    Args:
        normalized_shape: the sizes of x's last axes, which are normalised together by eq. (21): (C, \*S) for a whole
            step, (\*S, C) with `channels_last`; there, C alone normalises each site.
        eps: added to the variance.
        elementwise_affine: whether there are a weight and a bias of that shape.
        bias: whether there is a bias.
        rank: number of site axes; None takes sequences only.
        channels_last: whether channels are the last axis.
        device: of the parameters.
        dtype: of the parameters.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        rank: int | None = None,
        channels_last: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shape = normalized_shape if isinstance(normalized_shape, int) else list(normalized_shape)
        super().__init__(shape, eps, elementwise_affine, bias, device=device, dtype=dtype)
        self.rank, self.channels_last = rank, channels_last

    def _check(self, seen: Seen) -> None:
        wanted, shape = self.normalized_shape, tuple(seen.x.shape)
        if len(wanted) > len(shape) - 2 or shape[len(shape) - len(wanted) :] != tuple(wanted):
            shown = shape if seen.steps else (shape[0], *shape[2:])
            raise ValueError(
                f"`x` has shape {shown}, expected its last axes to be normalized_shape = {tuple(wanted)}, without "
                f"{'steps' if seen.steps else 'samples'}; give rank=, the number of site axes, for frames"
            )

    def _normalize(self, seen: Seen, values: Tensor) -> Tensor:
        axes = tuple(range(values.ndim - len(self.normalized_shape), values.ndim))
        mean, variance, _ = moments(values, seen.observed, axes)
        y = self._standardize(values, mean, variance)
        if self.weight is not None:
            y = y * self.weight.to(y.dtype)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class MaskedBatchNorm1d(MaskedBatchNorm):
    """nn.BatchNorm1d over what is observed; arguments and shapes are those of MaskedBatchNorm."""

    rank = 1


class MaskedBatchNorm2d(MaskedBatchNorm):
    """nn.BatchNorm2d over what is observed; arguments and shapes are those of MaskedBatchNorm."""

    rank = 2


class MaskedBatchNorm3d(MaskedBatchNorm):
    """nn.BatchNorm3d over what is observed; arguments and shapes are those of MaskedBatchNorm."""

    rank = 3


class MaskedInstanceNorm1d(MaskedInstanceNorm):
    """nn.InstanceNorm1d over what is observed; arguments and shapes are those of MaskedInstanceNorm."""

    rank = 1


class MaskedInstanceNorm2d(MaskedInstanceNorm):
    """nn.InstanceNorm2d over what is observed; arguments and shapes are those of MaskedInstanceNorm."""

    rank = 2


class MaskedInstanceNorm3d(MaskedInstanceNorm):
    """nn.InstanceNorm3d over what is observed; arguments and shapes are those of MaskedInstanceNorm."""

    rank = 3
